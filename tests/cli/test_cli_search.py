"""`ropewalk search`: what it leaves behind, and that no way of ending it early loses anything."""

import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from measured_by import away_from_yarn, measured_by
from transformers import AutoTokenizer

from ropewalk.evaluate import perplexity
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.report.comparison import CLOSED_FORMS
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.objective import Objective
from ropewalk.text.tokens import token_documents

SETTINGS = ["--target-length", "4x", "--num-documents", "2", "--seed", "3"]
FILES = {"factors.json", "factors-no-start-tokens.json", "journal.jsonl", "records.jsonl", "run.json"}
SEARCHED_BESIDE = "factors-searched.json"  # where a closed form is better


@pytest.fixture
def tiny_lengths(model):
    """The documents of a source, as the model's tokenizer cuts them."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return lambda source, length: token_documents(str(source), tokenizer, length=length)


@pytest.fixture
def search(ropewalk, model, shelf, tmp_path):
    """Run a small search; give the ending and the folder."""

    def searched(*more, out="run", budget=10, text=shelf):
        arguments = [
            "search",
            model,
            "--text",
            text,
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
    assert {file.name for file in run.iterdir()} - {SEARCHED_BESIDE} == FILES
    factors = searched_of(run)
    assert factors.target_length == 512
    assert factors.provenance.strategy == "gradient"
    assert factors.provenance.settings["serve_with"] == "any"
    assert factors.provenance.seed == 3
    assert str(run / "factors.json") in ended.out
    assert "n-hat 0" in ended.out
    assert "every engine" in ended.out
    rows = [line.split()[0] for line in ended.out.splitlines() if line.strip()]
    assert set(CLOSED_FORMS) | {"searched"} <= set(rows)
    assert "evaluate passkey" in ended.out
    assert "best" in ended.err
    assert re.search(r" \d+\.\d of 10 evaluations .* closed-form schemes: (\d+) of \1 ", ended.err)


def searched_of(run):
    """The best searched candidate's factors; on a random model a closed form may be better."""
    beside = run / SEARCHED_BESIDE
    return RescaleFactors.load(beside if beside.exists() else run / "factors.json")


def no_closed_form(objective, candidate):
    """Every closed form is worse than anything that is searched."""
    schemes = [
        scheme_factors(s, objective.space.geometry, objective.space.target_length) for s in CLOSED_FORMS
    ]
    forms = [pytest.approx(factors.rescale_factors[0]) for factors in schemes]
    return 1000.0 if any(candidate.rescale_factors == form for form in forms) else 100.0


@pytest.mark.parametrize("json_too", [False, True])
def test_a_closed_form_that_is_better_on_the_stop_documents_is_written_and_said(
    search, monkeypatch, json_too
):
    monkeypatch.setattr(Objective, "measure", measured_by(away_from_yarn))
    ended, run = search("--strategy", "random", *(["--json"] if json_too else []))
    assert ended.code == 0, ended.err
    assert {file.name for file in run.iterdir()} == FILES | {SEARCHED_BESIDE}
    factors, searched = (RescaleFactors.load(run / name) for name in ("factors.json", SEARCHED_BESIDE))
    assert factors.provenance.strategy.startswith("yarn")
    yarn = scheme_factors("yarn", factors.geometry, 512)
    assert factors.array() == pytest.approx(yarn.array())
    assert searched.provenance.strategy == "random"
    if json_too:
        document = json.loads(ended.out)
        assert document["search"]["choice"]["written"] == factors.provenance.strategy
        assert document["search"]["choice"]["searched"] > factors.provenance.objective_value
        assert document["files"]["factors_searched"] == str(run / SEARCHED_BESIDE)
        assert {record["factors"] for record in document["records"]} >= {factors.provenance.strategy}
    else:
        assert re.search("closed-form scheme.*NOT searched", ended.out)
        assert "3 validation documents" in ended.out
        assert str(run / SEARCHED_BESIDE) in ended.out


def test_a_searched_candidate_that_is_better_there_is_written(search, monkeypatch):
    monkeypatch.setattr(Objective, "measure", measured_by(no_closed_form))
    ended, run = search("--strategy", "random", "--num-validation-documents", "0", "--test-text", "stdlib")
    assert ended.code == 0, ended.err
    assert {file.name for file in run.iterdir()} == FILES
    assert RescaleFactors.load(run / "factors.json").provenance.strategy == "random"
    assert "NOT searched" not in ended.out
    assert "2 search documents" in ended.out
    assert "no validation documents" in ended.out


def test_json_is_one_object_on_stdout(search):
    ended, run = search("--json", "--objective", "perplexity", "--exact")
    document = json.loads(ended.out)
    perplexities = perplexities_of(document)
    reported = [record for record in perplexities if record["documents"] == "report"]
    written = document["search"]["choice"]["written"]
    also = [written] if written and written not in CLOSED_FORMS else []
    assert [record["factors"] for record in reported] == ["untouched", *CLOSED_FORMS, *also, "searched"]
    searched = {r["documents"]: r for r in perplexities if r["factors"] == "searched"}
    assert searched["search"]["value"] == pytest.approx(document["search"]["value"], rel=1e-6)
    assert searched["stop"]["value"] == pytest.approx(document["search"]["stop_value"], rel=1e-6)
    assert {role: record["n"] for role, record in searched.items()} == {"search": 2, "stop": 3, "report": 5}
    assert len({record["data_sha256"] for record in searched.values()}) == 3
    assert {gap["documents"]: gap["searched"] for gap in document["gaps"]} == {
        role: record["value"] for role, record in searched.items()
    }
    best = min((r for r in reported if r["factors"] in CLOSED_FORMS), key=lambda record: record["value"])
    for gap in document["gaps"]:
        assert gap["scheme"] == best["factors"]
        assert gap["nats"] == pytest.approx(math.log(gap["searched"] / gap["closed_form"]))
    assert "5 test documents" in document["verdict"]
    for gap in document["gaps"]:
        has_interval = gap["n"] >= 3
        assert (gap["low"] is not None) is has_interval
        is_decided = has_interval and not gap["low"] <= 0 <= gap["high"]
        assert gap["decision"] == ("decided" if is_decided else "undecided")
    run_id = json.loads((run / "run.json").read_text())["run_id"]
    written = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert written == document["records"]
    for record in perplexities:
        assert len(record["by_document"]) == record["n"]
        of = [record[key] for key in ("run_id", "strategy", "search_seed", "budget")]
        assert of == [run_id, "gradient", 3, 10]
    assert RescaleFactors.load(run / "factors.json").provenance.settings["run_id"] == run_id
    assert document["search"]["nats_of_limits"] >= 0
    assert document["files"]["factors"] == str(run / "factors.json")
    assert Path(document["files"]["run"]).is_file()


def perplexities_of(document):
    """The records of `--json` without those of facts."""
    return [record for record in document["records"] if record["metric"] == "perplexity"]


def test_facts_are_measured_on_the_test_documents(search):
    ended, _ = search("--json")
    document = json.loads(ended.out)
    facts = [record for record in document["records"] if record["metric"] == "retrieval"]
    assert "searched" in {record["factors"] for record in facts}
    assert {record["documents"] for record in facts} == {"report"}
    assert document["search"]["largest_error"] is None or document["search"]["largest_error"] >= 0
    assert json.loads(search("--exact", "--json", out="b")[0].out)["search"]["largest_error"] is None


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(search):
    factors = [
        searched_of(search("--seed", seed, out=out, budget=16)[1]).to_json()
        for seed, out in ((3, "a"), (3, "b"), (4, "c"))
    ]
    assert factors[0] == factors[1] != factors[2]


def test_start_tokens_none_keeps_n_hat_0(search):
    ended, run = search("--start-tokens", "none", "--serve-with", "ropewalk", budget=20)
    assert ended.code == 0, ended.err
    trials = trials_of(run)
    assert {trial["candidate"]["num_start_tokens"] for trial in trials} == {0}


def test_near_far_factors_are_searched_and_their_engine_is_said(search):
    options = ("--near-window", "32", "--num-validation-documents", "1", "--num-test-documents", "1")
    ended, run = search(*options, budget=7)
    assert ended.code == 0, ended.err
    factors = searched_of(run)
    assert factors.near_window == 32
    assert factors.provenance.settings["near_window"] == 32
    trials = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()[1:]]
    steps = [trial for trial in trials if trial.get("gradient")]
    assert {len(trial["gradient"]) for trial in steps} == {num_knots_of(factors) + 2}
    if RescaleFactors.load(run / "factors.json").is_near_far:
        assert "runtime" in ended.out


def num_knots_of(factors):
    return min(6, factors.geometry.num_pairs)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--near-window", "1000"), "near window"),
        (("--near-window", "-3"), "near-window"),
        (("--near-window", "16", "--strategy", "cma"), "strategy"),
        (("--near-window", "16", "--serve-with", "llama.cpp"), "serve_with"),
        (("--near-window", "16", "--start-tokens", "search"), "start_tokens"),
    ],
)
def test_a_near_window_that_can_not_be_is_one_line(search, options, named):
    ended, run = search(*options)
    assert ended.code == 2
    assert len(ended.err.strip().splitlines()) == 1
    assert named in ended.err
    assert not run.exists()


def test_the_attention_factor_is_stored(search):
    _, run = search("--attention-factor", "1.25")
    assert RescaleFactors.load(run / "factors.json").attention_factor == 1.25


def trials_of(run):
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()[1:]]


def test_the_three_sets_are_consecutive_documents_of_one_source(search, shelf, tiny_lengths):
    ended, run = search()
    assert "Validation documents: 3 more" in ended.err
    assert "Test documents: 5 more" in ended.err
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    found = {record["documents"]: record["data_sha256"] for record in records}
    whole = tiny_lengths(shelf, 512)
    assert found == {
        "search": whole.part(0, 2).data_sha256,
        "stop": whole.part(2, 5).data_sha256,
        "report": whole.part(5, 10).data_sha256,
    }
    identity = json.loads((run / "run.json").read_text())["identity"]
    assert identity["text"]["data_sha256"] == found["search"]
    assert identity["stop_text"]["data_sha256"] == found["stop"]


def test_the_report_documents_are_measured_once_and_by_no_trial(search, monkeypatch):
    measured = []
    measure = perplexity.measure_perplexity

    def noting(loaded, documents, lengths, *, factors, **more):
        measured.extend((documents.data_sha256, label) for label in factors)
        return measure(loaded, documents, lengths, factors=factors, **more)

    monkeypatch.setattr(perplexity, "measure_perplexity", noting)
    ended, _ = search("--json")
    (report,) = {r["data_sha256"] for r in json.loads(ended.out)["records"] if r["documents"] == "report"}
    labels = [label for sha, label in measured if sha == report]
    assert labels.count("searched") == 1
    assert len(set(labels)) == len(labels)
    assert set(labels) >= {*CLOSED_FORMS, "searched"}


def test_too_few_documents_are_told_and_the_sets_shrink_from_the_end(search, books):
    ended, run = search("--json", text=books)
    assert ended.code == 0, ended.err
    assert "Validation documents: 1 more" in ended.err
    assert "(3 were requested)" in ended.err
    assert "No test documents" in ended.err
    assert "--test-text" in ended.err
    document = json.loads(ended.out)
    assert {record["documents"] for record in document["records"]} == {"search", "stop"}
    assert "2 search documents" in document["verdict"]
    assert {trial["kind"] for trial in trials_of(run)} >= {"trial", "stop"}


def test_with_no_document_left_there_is_no_stop_set(search, books):
    ended, run = search("--num-documents", "3", text=books)
    assert ended.code == 0, ended.err
    assert "No validation documents" in ended.err
    assert "stop" not in {trial["kind"] for trial in trials_of(run)}
    assert "evaluate perplexity" in ended.out
    assert "OTHER-TEXT" in ended.out


def test_sets_can_be_left_out_and_the_report_come_from_elsewhere(search, books, tmp_path):
    ended, _ = search(
        "--num-validation-documents", "0", "--test-text", books, "--num-test-documents", "2", "--json"
    )
    assert ended.code == 0, ended.err
    records = perplexities_of(json.loads(ended.out))
    assert {(r["documents"], r["source"] == str(books)) for r in records} == {
        ("search", False), ("report", True),
    }  # fmt: skip
    assert {record["n"] for record in records if record["documents"] == "report"} == {2}
    ended, _ = search("--num-validation-documents", "0", "--num-test-documents", "0", out="other")
    assert "No test" not in ended.err  # nothing is missing: none was asked for
    assert "OTHER-TEXT" in ended.out


def test_stdlib_is_reported_on_its_held_out_part(search):
    ended, _ = search("--json", text="stdlib")
    assert ended.code == 0, ended.err
    sources = {r["documents"]: r["source"] for r in json.loads(ended.out)["records"]}
    assert sources == {"search": "stdlib", "stop": "stdlib", "report": "stdlib:held-out"}


@pytest.mark.parametrize(
    ("options", "strategy", "knots"),
    [
        (["--strategy", "hybrid", "--num-knots", "2"], "hybrid", 2),
        (["--strategy", "cma", "--space", "full", "--no-monotone"], "cma", None),
        (["--strategy", "evolution", "--serve-with", "vllm"], "evolution", None),
        (["--strategy", "random", "--space", "longrope2", "--critical-pair", "4"], "random", 4),
    ],
)
def test_strategies_and_spaces(search, options, strategy, knots):
    ended, run = search(*options, budget=12)
    assert ended.code == 0, ended.err
    identity = json.loads((run / "run.json").read_text())["identity"]
    assert identity["strategy"] == strategy
    assert (identity["space"]["knots"] and len(identity["space"]["knots"])) == knots
    assert identity["space"]["monotone"] == ("--no-monotone" not in options)
    assert f"found by {strategy}" in ended.out


@pytest.mark.parametrize(
    ("objective", "named"), [("tail", "tail"), ("needle", "answers"), ("perplexity", "perplexity .* short")]
)
def test_a_value_of_another_kind_is_not_called_perplexity(search, objective, named):
    more = ["--short-weight", "0.5"] if objective == "perplexity" else []
    ended, _ = search("--objective", objective, *more, budget=30)
    assert ended.code == 0, ended.err
    story = ended.out.partition("Perplexity on")[0]
    assert re.search(r"^  value \d", story, flags=re.MULTILINE), story
    assert re.search(f"the value is {named}", story)
    assert not re.search(r"perplexity \d", story)


OWN = """
import numpy as np
from ropewalk.search.strategies import Strategy
from ropewalk.search.strategies.random_search import RandomSearch, RandomSettings
from ropewalk.search.objectives import tail

class Mine(RandomSearch):
    Settings = RandomSettings

def objective(task):
    return tail(task)
"""


def test_a_strategy_and_an_objective_of_ones_own(search, tmp_path, monkeypatch):
    (tmp_path / "own_search.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    ended, run = search("--strategy", "own_search:Mine", "--objective", "own_search:objective")
    assert ended.code == 0, ended.err
    identity = json.loads((run / "run.json").read_text())["identity"]
    assert identity["strategy"] == "own_search:Mine"
    assert identity["objective"].startswith("tail perplexity of 2 documents")


def test_the_examples_of_the_search_page_run(search, ropewalk, model, shelf, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert {name for name, _ in blocks} == {"my_schemes.py", "my_objectives.py", "my_strategies.py"}
    for name, program in blocks:
        (tmp_path / name).write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    ended, run = search("--strategy", "my_strategies:Walk", "--objective", "my_objectives:last_quarter")
    assert ended.code == 0, ended.err
    assert sum(trial["kind"] == "trial" for trial in trials_of(run)) > 2
    scheme = "my_schemes:power:exponent=3"
    ended = ropewalk("evaluate", "perplexity", model, "--text", shelf, "--lengths", "512", "--scheme", scheme)
    assert ended.code == 0, ended.err
    assert scheme in ended.out


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
    assert "seed is 4" in ended.err
    assert {file: file.read_bytes() for file in run.iterdir()} == before


def test_a_damaged_journal_is_cut_when_asked_and_ends_the_same(search):
    """Resumed with another number of threads, it says so at once."""
    _, run = search()
    before = (run / "factors.json").read_bytes()
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:3], lines[3].replace(b'"value"', b'"valve"'), *lines[4:]])
    (run / "journal.jsonl").write_bytes(damaged)
    refused, _ = search("--resume")
    assert refused.code == 2
    assert "--cut-damaged" in refused.err_lines[-1]
    assert (run / "journal.jsonl").read_bytes() == damaged
    assert search("--cut-damaged")[0].code == 2, "only with --resume"
    ended, _ = search("--resume", "--cut-damaged")
    assert ended.code == 0, ended.err
    assert (run / "factors.json").read_bytes() == before


def test_other_threads_are_told_when_the_run_is_resumed(search, monkeypatch):
    search()
    monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    ended, _ = search("--resume")
    assert ended.code == 0
    assert any("num_threads is 77" in line for line in ended.err_lines)


def test_the_default_folder_is_named_after_model_and_target(ropewalk, model, shelf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = ropewalk("search", model, "--text", shelf, *SETTINGS, "--budget", "8")
    assert ended.code == 0, ended.err
    assert (tmp_path / "runs" / "tiny-4x" / "factors.json").is_file()


@pytest.mark.parametrize(("strategy", "budget"), [("gradient", 60), ("evolution", 200)])
def test_ctrl_c_then_a_kill_then_resume_ends_with_the_same_factors(
    start, model, shelf, tmp_path, strategy, budget
):
    """By default the first has kept keys, and the second none."""
    by = [] if strategy == "gradient" else ["--strategy", strategy]
    settings = ["search", model, "--text", shelf, *SETTINGS, "--budget", str(budget), *by]
    ends_well(start(*settings, "--out", "whole"))

    interrupted = start(*settings, "--out", "broken run")
    wait_for_trials(tmp_path / "broken run" / "journal.jsonl", 20, interrupted)
    interrupted.send_signal(signal.SIGINT)
    _, err = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "Traceback" not in err
    assert not (tmp_path / "broken run" / "factors.json").exists()
    program, *resume = shlex.split(
        err[err.index("resume with: ") :].removeprefix("resume with: ").splitlines()[0]
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


# ---------------------------------------------------------------- a model with a scaling of its own


@pytest.fixture
def scaled(model, tmp_path):
    """The same model with Llama 3's scaling: trained on 128 tokens, and it reads 512."""
    folder = tmp_path / "scaled"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 512
    config["rope_parameters"] |= {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_target_that_the_model_reads_as_it_is_is_refused(ropewalk, scaled, shelf, tmp_path):
    out = tmp_path / "run"
    ended = ropewalk("search", scaled, "--text", shelf, "--target-length", "4x", "--out", out)
    assert ended.code == 2
    (line,) = ended.err_lines
    assert "512" in line
    assert "base as-is" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("more", "replaced"),
    [(["--target-length", "4x", "--base", "native"], True), (["--target-length", "640"], True),
     (["--target-length", "640", "--base", "as-is"], False)],
)  # fmt: skip
def test_the_base_model_is_a_row_of_its_own_and_a_replaced_scaling_is_said(
    ropewalk, scaled, shelf, tmp_path, more, replaced
):
    settings = ["--budget", "9", "--num-documents", "2", "--strategy", "random", "--json"]
    ended = ropewalk("search", scaled, "--text", shelf, *more, *settings, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert ("is replaced" in ended.err) == replaced
    reported = [r for r in json.loads(ended.out)["records"] if r["documents"] == "report"]
    rows = {r["factors"]: r["value"] for r in reported if r["metric"] == "perplexity"}
    (as_it_is,) = [label for label in rows if "llama3 512" in label]
    assert as_it_is.startswith("as configured")
    assert set(rows) >= {as_it_is, *CLOSED_FORMS, "searched"}
    if replaced:
        assert rows[as_it_is] != rows["none"], "`none` takes the scaling away"
    else:
        assert rows[as_it_is] == pytest.approx(rows["none"], rel=1e-5)


def test_that_the_model_as_it_is_reads_the_stop_documents_best_is_said(
    ropewalk, scaled, shelf, tmp_path, monkeypatch
):
    def own_only(objective, candidate):
        own = scheme_factors("llama3:factor=8", objective.space.geometry, 512).rescale_factors[0]
        away = sum(abs(a - b) for a, b in zip(candidate.rescale_factors, own, strict=True))
        return 100 * (1 + away + abs(candidate.attention_factor - 1))

    monkeypatch.setattr(Objective, "measure", measured_by(own_only))
    ended = ropewalk(
        "search", scaled, "--text", shelf, "--target-length", "2x", "--base", "native", "--budget", "9",
        "--num-documents", "2", "--strategy", "random", "--attention-factor", "longrope",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert re.search(r"the model as it is \(own llama3\) .* no other factors", ended.out)
    factors = RescaleFactors.load(tmp_path / "run" / "factors.json")
    assert factors.provenance.strategy.startswith("own llama3:attention_factor=")


def test_evaluate_shows_a_model_with_a_scaling_as_it_is_too(ropewalk, scaled, model, shelf):
    def labels(folder):
        ended = ropewalk(
            "evaluate", "perplexity", folder, "--text", shelf, "--scheme", "yarn", "--lengths", "256",
            "--num-documents", "1", "--json",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        return [record["factors"] for record in json.loads(ended.out)["records"]]

    assert labels(scaled) == ["as configured: llama3 512", "yarn"]
    assert labels(model) == ["yarn"]
