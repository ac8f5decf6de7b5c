"""The program as a whole: help, versions, and what each way of ending looks like."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ropewalk as package
from ropewalk.cli import main
from ropewalk.cli.output import CLOSED_STDOUT_CODE
from ropewalk.rope.schemes import SCHEME_NAMES
from ropewalk.search.strategies import STRATEGY_NAMES

VERBS = [
    [], ["demo"], ["inspect"], ["search"], ["evaluate"], ["evaluate", "perplexity"], ["evaluate", "passkey"],
    ["factors"], ["factors", "show"], ["factors", "convert"], ["factors", "check"],
]  # fmt: skip
HEAVY = "{'torch', 'transformers', 'numpy', 'matplotlib', 'rich', 'datasets'}"


def test_help_and_the_package_load_nothing_heavy():
    program = (
        "import sys, ropewalk; from ropewalk.cli.main import run; assert run(['search', '--help']) == 0;"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_help_says_what_to_type(verb, ropewalk):
    ended = ropewalk(*verb, "--help")
    assert ended.code == 0
    assert ended.err == ""
    if verb not in (["evaluate"], ["factors"]):  # these only list their verbs
        assert any(line.strip().startswith("ropewalk " + " ".join(verb)) for line in ended.out.splitlines())


def test_nothing_typed_is_help(ropewalk):
    assert ropewalk().out == ropewalk("--help").out


def test_help_names_every_scheme_and_strategy(ropewalk):
    schemes = " ".join(ropewalk("evaluate", "perplexity", "--help").out.split()).replace("- ", "-")
    assert f"Names: {', '.join(SCHEME_NAMES)}." in schemes
    strategies = ropewalk("search", "--help").out
    assert all(name in strategies for name in STRATEGY_NAMES)


def test_the_version(ropewalk):
    assert ropewalk("--version").out.strip() == f"ropewalk {package.__version__}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serach"], "'search'"),
        (["evaluate"], "Missing command"),
        (["search"], "MODEL"),
        (["search", "m"], "--target-length"),
        (["inspect", "m", "--nonsense"], "--nonsense"),
        (["evaluate", "perplexity", "m", "--lengths", "8", "--num-documents", "no"], "--num-documents"),
        (["evaluate", "perplexity", "m", "--lengths", "8", "--mode", "guess"], "--mode"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, said, ropewalk):
    ended = ropewalk(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err_lines) == 1
    assert said in ended.err
    assert "--help" in ended.err


def test_a_defect_keeps_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(ZeroDivisionError):
        main.run(["inspect", "m"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_a_disk_refuses_is_one_line(number, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(number, "what the system says", "/some/file")

    monkeypatch.setattr(main, "app", full)
    assert main.run(["inspect", "m"]) == 2
    assert capsys.readouterr().err.startswith("ropewalk: /some/file: what the system says")


def test_other_system_errors_are_defects(monkeypatch):
    def lost(*_, **__):
        raise OSError(errno.ECHILD, "no child")

    monkeypatch.setattr(main, "app", lost)
    with pytest.raises(OSError, match="no child"):
        main.run(["inspect", "m"])


def test_an_early_ctrl_c_is_130(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupted)
    assert main.run(["inspect", "m"]) == 130


def test_a_reader_that_goes_away_is_no_traceback(start, model):
    process = start("factors", "convert", str(yarn_config(model.parent)))
    process.stdout.close()
    _, err = process.communicate(timeout=120)
    assert process.returncode == CLOSED_STDOUT_CODE
    assert err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_one_line(start, model):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        process = start("factors", "convert", str(yarn_config(model.parent)), stdout=full)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "No space left" in err


def yarn_config(folder: Path) -> Path:
    """A configuration that `factors convert` reads, which needs no torch model and prints a lot."""
    scaling = {
        "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 128,
    }  # fmt: skip
    config = {
        "model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
        "max_position_embeddings": 512, "rope_parameters": scaling,
    }  # fmt: skip
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path
