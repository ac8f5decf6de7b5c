"""stdout and stderr that are closed, full, or have no reader: work continues without a traceback."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from ropewalk.cli.main import run
from ropewalk.cli.output import CLOSED_STDOUT_CODE

HELP = [
    [], ["--help"], ["--version"], ["search", "--help"], ["extend", "--help"], ["verify", "--help"],
    ["recipe", "list"], ["recipe", "show", "scale-model-quick"], ["recipe", "list", "--json"],
    ["export", "hf", "--help"],
]  # fmt: skip


class Broken(io.StringIO):
    """A stream that accepts `capacity` characters and then fails as the system does."""

    def __init__(self, number, capacity=0):
        super().__init__()
        self.number, self.capacity = number, capacity

    def write(self, text):
        self.capacity -= len(text)
        if self.capacity < 0:
            raise OSError(self.number, os.strerror(self.number)) if self.number else ValueError("closed file")
        return super().write(text)


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
@pytest.mark.parametrize("capacity", [0, 10])
def test_without_a_reader_every_verb_ends_quietly(arguments, capacity, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr("sys.stdout", Broken(errno.EPIPE, capacity))
    assert run(arguments) == CLOSED_STDOUT_CODE
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_result_that_can_not_be_written_is_one_line(number, monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr("sys.stdout", Broken(number))
    assert run(["recipe", "list"]) == 2
    assert stderr.getvalue().count("\n") == 1


@pytest.mark.parametrize("stderr", [errno.ENOSPC, errno.EPIPE, 0, None], ids=str)
def test_a_search_continues_without_its_progress(stderr, model, shelf, tmp_path, monkeypatch, capsys):
    """As with a full log disk or a dead `tee`; 0 is a closed stream, None one that never was open."""
    monkeypatch.setattr("sys.stderr", None if stderr is None else Broken(stderr, capacity=30))
    monkeypatch.setattr("ropewalk.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    code = run([
        "search", str(model), "--text", str(shelf), "--target-length", "4x", "--num-documents", "2",
        "--budget", "10", "--num-test-documents", "0", "--out", str(tmp_path / "run"),
    ])  # fmt: skip
    assert code == 0
    assert (tmp_path / "run" / "factors.json").is_file()
    assert "Searched factors" in capsys.readouterr().out
    monkeypatch.undo()


def test_a_mistake_without_stderr_still_has_its_code(monkeypatch):
    monkeypatch.setattr("sys.stderr", Broken(errno.EPIPE))
    assert run(["inspect", "/nowhere"]) == 2


def test_what_the_terminal_s_encoding_lacks_is_escaped(monkeypatch, tmp_path):
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2))
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setattr("sys.stderr", stderr)
    (tmp_path / "mine.yaml").write_text("# café \u2028\nmodel: {}\n", encoding="utf-8")
    assert run(["recipe", "show", str(tmp_path / "mine.yaml")]) == 0
    assert b"caf\\xe9" in stdout.buffer.getvalue()
    assert run(["inspect", "/nowhere/\udcff\u20ac"]) == 2
    assert b"\\u20ac" in stderr.buffer.getvalue()


def test_the_streams_are_restored():
    before = sys.stdout, sys.stderr
    run(["--version"])
    assert (sys.stdout, sys.stderr) == before


def ends(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in (err or "")
    assert "Exception ignored" not in (err or "")
    return process.returncode, out, err


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_streams_that_are_closed_at_the_start(start, closed, tmp_path):
    def close():
        for descriptor in closed:
            os.close(descriptor)

    code, out, _ = ends(start("recipe", "copy", "any-model-8x", "mine.yaml", preexec_fn=close))
    assert code == 0
    assert out == ""
    # Without care, the first opened file gets the descriptor 2, and with it the messages.
    assert (tmp_path / "mine.yaml").read_text().startswith("# Read eight times further")
    assert "Written" not in (tmp_path / "mine.yaml").read_text()


@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "show", "any-model-8x"]], ids=" ".join)
def test_at_the_end_of_the_program_too(start, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    code, _, err = ends(start(*arguments, stdout=writing))
    os.close(writing)
    assert (code, err) == (CLOSED_STDOUT_CODE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_log_at_the_end_of_the_program(start):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        code, _, _ = ends(start("inspect", "/nowhere", stderr=full))
        assert code == 2
        code, _, _ = ends(start("recipe", "copy", "any-model-8x", "mine.yaml", stderr=full))
        assert code == 0
