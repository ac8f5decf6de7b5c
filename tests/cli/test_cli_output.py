"""Text of users, files and servers reaches a terminal as visible characters and without secrets."""

import json
import warnings

import pytest
from completions_server import http_reply, raw_server

from ropewalk.cli import main
from ropewalk.cli.output import complain, one_line, result, say, table
from ropewalk.models.model_files import describe_model
from ropewalk.rope.schemes import scheme_factors

HOSTILE = "\x1b[31mred\x07\x9b2J\u202eliv\u2066\x7f\x85\nropewalk: forged\u2028\r"
SECRET = "http://me:se@cret@host/?api_key=cret"


def assert_shown(text):
    """Nothing but visible characters, in lines of our own."""
    assert "red" in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert not any(line.startswith("ropewalk: forged") for line in text.split("\n"))
    assert "cret" not in text


@pytest.mark.parametrize("print_it", [say, complain, lambda text: result(table(text, [text], [[text]]))])
def test_every_way_to_print(print_it, capsys):
    print_it(HOSTILE + SECRET)
    ended = capsys.readouterr()
    assert_shown(ended.out + ended.err)


def test_a_result_has_lines_and_a_line_has_none(capsys):
    result(f"one\n\ttwo {one_line(HOSTILE)}")
    assert capsys.readouterr().out.startswith("one\n\ttwo \\u001b")


def test_line_feeds_around_a_line_are_layout(capsys):
    say("\na\n")
    say("")
    say("\n")
    assert capsys.readouterr().err == "\na\n\n\n\n\n"


def test_a_warning(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", None)
    with warnings.catch_warnings():
        main._quiet_libraries()
        warnings.showwarning(f"{HOSTILE} {SECRET}", UserWarning, "", 0)
    assert_shown(capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments", [["{}"], ["inspect", "{}"], ["inspect", "--{}"], ["factors", "show", "{}"]]
)
def test_arguments(ropewalk, arguments):
    ended = ropewalk(*(argument.format(HOSTILE + SECRET) for argument in arguments))
    assert (ended.code, len(ended.err_lines)) == (2, 1)
    assert_shown(ended.err)


@pytest.fixture
def factors(model, tmp_path):
    """A file of factors."""
    (tmp_path / "f.json").write_text(scheme_factors("pi", describe_model(model).geometry, 512).to_json())
    return tmp_path / "f.json"


def test_a_factors_file(ropewalk, factors):
    document = json.loads(factors.read_text())
    document["provenance"] |= {"model": HOSTILE, "strategy": HOSTILE, "settings": {HOSTILE: HOSTILE}}
    factors.write_text(json.dumps(document))
    shown = ropewalk("factors", "show", factors)
    assert shown.code == 0, shown.err
    assert_shown(shown.out)
    assert ropewalk("factors", "show", factors, "--json").out.isascii()


def test_names_of_files_and_folders(ropewalk, model, tmp_path):
    folder = tmp_path / HOSTILE
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}{HOSTILE}.txt").write_text("the same text again and again " * 50)
    ended = ropewalk("evaluate", "perplexity", model, "--text", folder, "--lengths", "64")
    assert ended.code == 0, ended.err
    assert "Perplexity" in ended.out
    assert_shown(ended.out)
    assert_shown("red" + "".join(ended.err_lines))


@pytest.mark.parametrize("models", [[{"id": HOSTILE}, {"id": "x"}], [{"id": HOSTILE * 9}] * 9])
def test_a_server(ropewalk, model, factors, models):
    about = ("--model", model, "--factors", factors)
    with raw_server(http_reply(json.dumps({"data": models}).encode())) as url:
        ended = ropewalk("verify", model, *about, "--endpoint", url)
    assert (ended.code, len(ended.err_lines)) == (2, 1)
    assert_shown(ended.err)
