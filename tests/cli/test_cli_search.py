"""`ropewalk search`: what it leaves behind, and that no way of ending it early loses anything."""

import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ropewalk.factors import RescaleFactors
from ropewalk.report.comparison import CLOSED_FORMS

SETTINGS = ["--target-length", "4x", "--num-documents", "2", "--seed", "3"]
FILES = {"factors.json", "factors-no-start-tokens.json", "journal.jsonl", "records.jsonl", "run.json"}


@pytest.fixture
def search(ropewalk, model, books, tmp_path):
    """Run a small search; give the ending and the folder."""

    def searched(*more, out="run", budget=6):
        arguments = [
            "search",
            model,
            "--text",
            books,
            *SETTINGS,
            "--budget",
            budget,
            "--out",
            tmp_path / out,
            *more,
        ]
        return ropewalk(*arguments), tmp_path / out

    return searched


def test_it_leaves_factors_a_journal_and_a_table(search):
    ended, run = search()
    assert ended.code == 0, ended.err
    assert {file.name for file in run.iterdir()} == FILES
    factors = RescaleFactors.load(run / "factors.json")
    assert factors.target_length == 512
    assert factors.provenance.strategy == "evolution"
    assert factors.provenance.seed == 3
    assert str(run / "factors.json") in ended.out
    assert "n-hat 0" in ended.out
    rows = [line.split()[0] for line in ended.out.splitlines() if line.strip()]
    assert set(CLOSED_FORMS) | {"searched"} <= set(rows)
    assert "evaluate perplexity" in ended.out
    assert "best" in ended.err
    assert " of 6 evaluations" in ended.err


def test_json_is_one_object_on_stdout(search):
    ended, run = search("--json")
    document = json.loads(ended.out)
    labels = [record["factors"] for record in document["records"]]
    assert set(labels) >= {*CLOSED_FORMS, "searched"}
    searched = document["records"][labels.index("searched")]
    assert searched["value"] == pytest.approx(document["search"]["value"], rel=1e-6)
    assert document["files"]["factors"] == str(run / "factors.json")
    assert Path(document["files"]["run"]).is_file()


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(search):
    factors = [
        (search("--seed", seed, out=out, budget=16)[1] / "factors.json").read_bytes()
        for seed, out in ((3, "a"), (3, "b"), (4, "c"))
    ]
    assert factors[0] == factors[1] != factors[2]


def test_start_tokens_none_keeps_n_hat_0(search):
    ended, run = search("--start-tokens", "none", budget=20)
    assert ended.code == 0, ended.err
    trials = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()[1:]]
    assert {trial["candidate"]["num_start_tokens"] for trial in trials} == {0}


def test_the_attention_factor_is_stored(search):
    _, run = search("--attention-factor", "1.25", budget=3)
    assert RescaleFactors.load(run / "factors.json").attention_factor == 1.25


def test_a_time_limit_is_recorded_as_not_reproducible(search):
    ended, run = search("--max-minutes", "0.0001", budget=500)
    assert ended.code == 0, ended.err
    assert "not reproducible" in ended.out
    assert RescaleFactors.load(run / "factors.json").provenance.settings["reproducible"] is False


def test_a_finished_run_can_be_resumed_and_is_refused_otherwise(search):
    _, run = search()
    before = (run / "factors.json").read_bytes()
    again, _ = search("--resume")
    assert again.code == 0, again.err
    assert (run / "factors.json").read_bytes() == before
    refused, _ = search()
    assert refused.code == 2
    assert "--resume" in refused.err
    assert (run / "factors.json").read_bytes() == before


def test_another_run_is_not_resumed(search):
    _, run = search()
    before = {file: file.read_bytes() for file in run.iterdir()}
    ended, _ = search("--resume", "--seed", "4")
    assert ended.code == 2
    assert "seed is 4 here, but 3" in ended.err
    assert {file: file.read_bytes() for file in run.iterdir()} == before


def test_the_default_folder_is_named_after_model_and_target(ropewalk, model, books, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = ropewalk("search", model, "--text", books, *SETTINGS, "--budget", "3")
    assert ended.code == 0, ended.err
    assert (tmp_path / "runs" / "tiny-4x" / "factors.json").is_file()


def test_ctrl_c_then_a_kill_then_resume_ends_with_the_same_factors(start, model, books, tmp_path):
    settings = ["search", model, "--text", books, *SETTINGS, "--budget", "300"]
    ends_well(start(*settings, "--out", "whole"))

    interrupted = start(*settings, "--out", "broken run")
    wait_for_trials(tmp_path / "broken run" / "journal.jsonl", 20, interrupted)
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "Traceback" not in err
    assert not (tmp_path / "broken run" / "factors.json").exists()
    program, *resume = shlex.split(
        err[err.index("go on with: ") :].removeprefix("go on with: ").splitlines()[0]
    )
    assert program == "ropewalk"
    assert resume[-1] == "--resume"

    killed = start(*resume)
    wait_for_trials(tmp_path / "broken run" / "journal.jsonl", 60, killed)
    killed.kill()
    killed.communicate(timeout=60)
    assert not (tmp_path / "broken run" / "factors.json").exists()

    ends_well(start(*resume))
    for name in ("factors.json", "factors-no-start-tokens.json"):
        assert (tmp_path / "broken run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def ends_well(process: "subprocess.Popen[str]") -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


def wait_for_trials(journal: Path, num_trials: int, process: "subprocess.Popen[str]") -> None:
    """Until the journal has so many trials, while the search is still under way."""
    deadline = time.monotonic() + 200
    while not (journal.exists() and journal.read_bytes().count(b"\n") > num_trials):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
