"""Everything that a user can get wrong: one clear line, exit code 2, and nothing half-written."""

import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import GPT2Config

from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.strategies import STRATEGY_NAMES

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=100.0, original_length=128, num_layers=2)
YARN = scheme_factors("yarn", GEOMETRY, 512)


@pytest.fixture
def refused(ropewalk):
    """Run a command line that must be refused; give the one line.

    `preamble` allows lines about the text before it, which is read by then.
    """

    def one_line(*arguments, preamble=None):
        ended = ropewalk(*arguments)
        assert ended.code == 2, ended.err
        assert ended.out == ""
        lines = [line for line in ended.err_lines if preamble is None or not re.search(preamble, line)]
        assert len(lines) == 1, ended.err
        return lines[0]

    return one_line


@pytest.fixture
def search(refused, model, books, tmp_path):
    """A search that must be refused and leave no folder behind."""

    def searched(*more, of=None, text=books, preamble=None):
        out = tmp_path / "runs" / "mine"
        said = refused(
            "search",
            of or model,
            "--text",
            text,
            "--target-length",
            "4x",
            "--budget",
            "4",
            "--out",
            out,
            *more,
            preamble=preamble,
        )
        assert not (tmp_path / "runs").exists()
        return said

    return searched


@pytest.mark.parametrize("target", ["1x", "128", "64"])
def test_a_target_that_is_not_longer_than_the_window(search, target):
    assert "nothing to extend" in search("--target-length", target)


def test_inspect_knows_no_shorter_target_either(refused, model):
    assert "nothing to extend" in refused("inspect", model, "--target-length", "1x")


@pytest.mark.parametrize(
    "target",
    ["8y", "", "0", "-4", "1.3x", "nan", "1e4", "9" * 400, "9" * 400 + "x", "99999999999", "8" * 5000],
)
def test_a_target_that_is_no_length(search, target):
    assert "target length" in search(f"--target-length={target}")


def test_an_unknown_scheme(refused, model):
    said = refused("evaluate", "perplexity", model, "--lengths", "128", "--scheme", "yarrn")
    assert "'yarrn'" in said
    assert "mrrope-pro" in said


@pytest.mark.parametrize("scheme", ["yarn:gamma=1", "yarn:factor=two", "pi:factor=0.5", "yarn:beta_fast=nan"])
def test_a_scheme_with_wrong_parameters(refused, model, scheme):
    assert scheme.split(":")[0] in refused(
        "evaluate", "passkey", model, "--lengths", "128", "--scheme", scheme
    )


@pytest.fixture(scope="module")
def weightless(model, tmp_path_factory):
    """The model without its weights: what is refused with it is refused before weights are read."""
    folder = tmp_path_factory.mktemp("weightless") / "tiny"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_an_unknown_strategy(search, weightless):
    said = search("--strategy", "gradiant", of=weightless)
    assert "'gradiant'" in said
    assert all(name in said for name in STRATEGY_NAMES)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--budget", "0", "budget"), ("--budget", "many", "budget"), ("--budget", "2.5", "budget"),
        ("--budget", "9" * 5000, "budget"), ("--budget", "99999999999", "budget"),
        ("--seed", "9" * 5000, "seed"), ("--seed", "9" * 400, "seed"),
        ("--num-documents", "9" * 400, "documents"), ("--num-validation-documents", "9" * 400, "documents"),
        ("--original-length", "9" * 400, "length"),
        ("--attention-factor", "1e308", "attention"), ("--attention-factor", "1e-308", "attention"),
        ("--num-knots", "99999999999", "knots"), ("--short-weight", "9" * 400, "weight"),
        ("--max-minutes", "9" * 400, "minutes"),
        ("--budget", "1", "at least 2"), ("--start-tokens", "some", "--start-tokens"),
        ("--attention-factor", "-1", "attention"), ("--max-minutes", "-1", "max-minutes"),
        ("--num-documents", "0", "num-documents"), ("--seed", "-1", "seed"),
        ("--num-validation-documents", "-1", "validation"), ("--num-test-documents", "-1", "test"),
        ("--test-text", "nowhere.txt", "does not exist"), ("--test-text", "", "empty name"),
        ("--space", "sphere", "full, spline, longrope2"), ("--num-knots", "1", "num-knots"),
        ("--num-knots", "99", "99 knots"), ("--critical-pair", "0", "critical-pair"),
        ("--serve-with", "onnx", "llama.cpp"),
        ("--objective", "bleu", "perplexity, tail, needle"),
        ("--short-weight", "-1", "--short-weight"), ("--short-weight", "nan", "--short-weight"),
        ("--short-weight", "inf", "--short-weight"),
    ],
)  # fmt: skip
def test_a_setting_out_of_its_range(search, weightless, option, value, said):
    assert said in search(f"{option}={value}", of=weightless)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--attn-implementation", "guess", "guess"), ("--dtype", "int3", "int3"),
        ("--device", "abacus", "abacus"),
    ],
)  # fmt: skip
def test_a_setting_that_is_known_to_be_wrong_as_weights_are_read(search, option, value, said):
    assert said in search(f"{option}={value}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--serve-with", "vllm", "--start-tokens", "search"], "n-hat"),
        (["--space", "full", "--num-knots", "4"], "--space spline"),
        (["--critical-pair", "3"], "--space longrope2"),
        (["--space", "longrope2", "--critical-pair", "8"], "from 1 to 7"),
        (["--strategy", "evolution", "--num-knots", "4"], "--space spline"),
    ],
)
def test_settings_that_contradict_each_other(search, weightless, options, said):
    assert said in search(*options, of=weightless)


BROKEN = "raise ValueError('at the wrong moment')"


@pytest.mark.parametrize("option", ["--strategy", "--objective"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:Name", "PYTHONPATH"),
        (":Name", "can't be imported"),
        ("broken_module:Name", "ValueError"),
        ("json:nothing", "'nothing'"),
        ("json:__name__", "'json'"),
    ],
)
def test_something_of_ones_own_that_is_not_there(
    search, weightless, tmp_path, monkeypatch, option, name, said
):
    (tmp_path / "broken_module.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = search(option, name, of=weightless)
    assert said in line
    assert option.removeprefix("--") in line


def test_a_class_that_is_no_strategy(search, weightless):
    assert "subclass" in search("--strategy", "json:JSONDecoder", of=weightless)


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("no_such_module:name", "can't be imported"),
        ("json:nothing", "'nothing'"),
        ("json:__name__", "must be a function"),
        ("own:fails", "IndexError"),
        ("own:scalar", "shape ()"),
        ("own:long", "shape (9,)"),
        ("own:words", "ValueError"),
        ("own:small", "0.5"),
        ("own:endless", "nan"),
        ("own:plain:slope=2", "no parameter 'slope'"),
        ("own:plain:factor=0.5", "at least 1"),
    ],
)
def test_a_scheme_of_ones_own_that_is_wrong(refused, model, books, tmp_path, monkeypatch, scheme, said):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def fails(geometry, s): return [][1]\n"
        "def scalar(geometry, s): return s\n"
        "def long(geometry, s): return np.ones(geometry.num_pairs + 1)\n"
        "def words(geometry, s): return ['one'] * geometry.num_pairs\n"
        "def small(geometry, s): return np.full(geometry.num_pairs, 0.5)\n"
        "def endless(geometry, s): return np.full(geometry.num_pairs, np.nan)\n"
        "def plain(geometry, s): return np.ones(geometry.num_pairs)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own", raising=False)
    evaluate = ["evaluate", "perplexity", model, "--text", books, "--lengths", "512", "--num-documents", "1"]
    ended = refused(*evaluate, "--scheme", scheme, preamble="Text: ")
    assert said in ended


def test_a_report_on_the_documents_of_the_search(search, books, weightless):
    assert str(books) in search("--test-text", books, of=weightless)
    said = search("--test-text", books / "*.txt", preamble="Text: |documents: ")
    assert "search document" in said


def test_a_text_that_repeats_itself(search, books, tmp_path):
    text = json.dumps({"text": (books / "book-0.txt").read_text()})
    (tmp_path / "twice.jsonl").write_text(f"{text}\n{text}\n")
    said = search("--num-documents", "1", text=tmp_path / "twice.jsonl", preamble="Text: |documents: |No ")
    assert "num_validation_documents" in said


def test_a_family_without_a_rotary(search, tmp_path):
    GPT2Config(n_layer=1, n_head=2, n_embd=16).save_pretrained(tmp_path / "gpt2")
    assert "gpt2" in search(of=tmp_path / "gpt2")


def test_a_model_that_is_not_there(search, tmp_path):
    assert "does not exist" in search(of=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.txt", None, "does not exist"),
        ("empty.txt", b"", "is empty"),
        ("binary.txt", bytes(range(256)) * 50, ""),
        ("short.txt", b"three short words", "the longest"),
        ("strange.exe", b"MZ", "text"),
    ],
)
def test_text_that_can_not_be_read(search, tmp_path, name, content, said):
    text = tmp_path / name
    if content is not None:
        text.write_bytes(content)
    line = search(text=text)
    assert said in line
    assert name in line


def test_too_short_a_text_says_the_longest_found(search, tmp_path):
    (tmp_path / "a.txt").write_text("a b c d e")
    assert "512 tokens" in search(text=tmp_path / "a.txt")


def edited(**changes):
    document = json.loads(YARN.to_json())
    return json.dumps({**document, **changes})


FACTORS = {
    "nan": edited(rescale_factors=[1.0] * 7 + [float("nan")]),
    "too few": edited(rescale_factors=[1.0] * 7),
    "too many": edited(rescale_factors=[1.0] * 9),
    "below 0": edited(rescale_factors=[-0.5] + [1.0] * 7),
    "newer version": edited(version=2),
    "truncated": YARN.to_json()[:200],
    "another JSON": "{}",
    "binary": pickle.dumps(YARN.array()),
    "empty": "",
}


@pytest.mark.parametrize("verb", ["show", "check", "evaluate"])
@pytest.mark.parametrize("kind", FACTORS)
def test_factors_that_break_a_rule(refused, model, tmp_path, kind, verb):
    file, content = tmp_path / "factors.json", FACTORS[kind]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    evaluate = ["evaluate", "perplexity", model, "--lengths", "128", "--factors", file]
    assert str(file) in refused(*(evaluate if verb == "evaluate" else ["factors", verb, file]))


def test_factors_for_another_geometry(refused, model, tmp_path):
    file = tmp_path / "factors.json"
    scheme_factors("yarn", RopeGeometry(**{**GEOMETRY.as_dict(), "rope_theta": 10000.0}), 512).save(file)
    said = refused("evaluate", "passkey", model, "--lengths", "128", "--factors", file)
    assert "rope_theta is 10000" in said


def test_a_csv_of_the_wrong_length(refused, model, tmp_path):
    file = tmp_path / "factors.csv"
    file.write_text("1\n" * 9)
    said = refused("evaluate", "perplexity", model, "--lengths", "512", "--factors", file, "--text", "stdlib")
    assert "9 factors were given" in said


def test_lengths_that_are_none(refused, model, books):
    for lengths in ("", ",", "a", "128,b", "0"):
        said = refused("evaluate", "perplexity", model, f"--lengths={lengths}", "--text", books)
        assert "length" in said


def test_a_passkey_prompt_that_does_not_fit(refused, model):
    assert "too short" in refused("evaluate", "passkey", model, "--lengths", "16")


def test_a_folder_that_holds_something_else(refused, model, books, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for more in ([], ["--resume"]):
        said = refused("search", model, "--text", books, "--target-length", "4x", "--out", tmp_path, *more)
        assert "thesis.txt" in said
    assert [file.name for file in tmp_path.iterdir() if file.name != "cache"] == ["thesis.txt"]


def test_a_folder_that_is_a_file(refused, model, books, tmp_path):
    (tmp_path / "run").write_text("mine")
    refused("search", model, "--text", books, "--target-length", "4x", "--out", tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_picture_that_is_no_png(refused, model, tmp_path):
    assert ".png" in refused("inspect", model, "--out", tmp_path / "picture.jpg")


def test_no_permission_to_write(refused, model, books, tmp_path):
    """Root may write anywhere but into the kernel's own tables."""
    place = Path("/proc/ropewalk") if os.geteuid() == 0 else tmp_path / "locked" / "run"
    if os.geteuid() == 0 and not Path("/proc").is_dir():
        pytest.skip("root may write everywhere here")
    if os.geteuid():
        place.parent.mkdir(mode=0o500)
    said = refused("search", model, "--text", books, "--target-length", "4x", "--out", place)
    assert str(place) in said
    assert not place.exists()


def test_a_disk_that_fills_up_in_the_middle(start, model, books, tmp_path):
    """A limit on the size of files stops the journal as a full disk does, wherever the test runs."""
    run = tmp_path / "run"
    full = start(
        "search", model, "--text", books, "--target-length", "4x", "--budget", "100", "--out", run,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )  # fmt: skip
    _, err = full.communicate(timeout=200)
    assert full.returncode == 2, err
    assert "Traceback" not in err
    assert "can't be written" in err.splitlines()[-1]
    lines = (run / "journal.jsonl").read_bytes().splitlines()
    assert len(lines) > 3
    assert all(json.loads(line) for line in lines)
    assert {file.name for file in run.iterdir()} == {"journal.jsonl"}


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk"
)
def test_a_really_full_disk(start, model, books, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        full = start(
            "search",
            model,
            "--text",
            books,
            "--target-length",
            "4x",
            "--budget",
            "100",
            "--out",
            disk / "run",
        )
        _, err = full.communicate(timeout=200)
        assert full.returncode == 2, err
        assert "full" in err.splitlines()[-1]
        assert "--resume" in err.splitlines()[-1]
        assert [file.name for file in (disk / "run").iterdir()] == ["journal.jsonl"]
    finally:
        subprocess.run(["umount", disk], check=True)
