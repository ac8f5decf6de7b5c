"""`ropewalk extend` and `ropewalk recipe`."""

import json
import re
import shutil
import signal
import time

import pytest
from stub_training import stand_in

from ropewalk.factors.factor_set import FactorSet
from ropewalk.recipe.reading import shipped_recipes

STAGES = """\
  - {kind: search, length: 2x}
  - {kind: readjust, lengths: [1x]}
  - {kind: evaluate, perplexity: [1x, 2x], passkey: [256], num_trials: 4, retrieval: [2x],
     retrieval_settings: {num_facts: 1}}
"""


@pytest.fixture(autouse=True)
def _large_terminal(monkeypatch):
    stand_in(monkeypatch)


@pytest.fixture
def recipe(model, shelf, tmp_path):
    other = tmp_path / "reported.jsonl"
    rows = [json.loads(line) for line in shelf.read_text().splitlines()]
    other.write_text("".join(json.dumps({"text": "Reported: " + row["text"]}) + "\n" for row in rows))
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"# Mine.\nmodel: {{name: {model}}}\n"
        f"text: {{search: {shelf}, test: {other}, num_test_documents: 4}}\n"
        f"search: {{budget: 9}}\nstages:\n{STAGES}"
    )
    return path


def test_a_checkpoint_free_recipe_ends_with_tables_and_a_factor_set(ropewalk, recipe, tmp_path):
    ended = ropewalk("extend", recipe, "--out", tmp_path / "run")
    assert ended.code == 0
    assert "test documents" in ended.out
    assert "Passkeys found" in ended.out
    assert "Facts found" in ended.out
    assert "base model" in ended.out
    assert "Stage 1/3, search-2x: begins" in ended.err
    assert "left in all" in ended.err
    assert FactorSet.load(tmp_path / "run" / "result" / "factors.json").lengths == (128, 256)
    again = ropewalk("extend", recipe, "--out", tmp_path / "run")
    assert again.out == ended.out
    assert again.err.count("done already") == 3


def test_json_and_a_missed_limit_ends_with_3(ropewalk, recipe, tmp_path):
    limits = ["--set", "accept={short_nll_rise: 9, passkey: [{length: 2x, at_least: 0.9}]}"]
    ended = ropewalk("extend", recipe, "--out", tmp_path / "run", "--json", *limits)
    assert ended.code == 3
    told = json.loads(ended.out)
    assert [verdict["is_held"] for verdict in told["verdicts"]] == [True, False]
    assert told["accepted"] is False
    assert {record["metric"] for record in told["records"]} == {
        "perplexity", "passkey", "nll_increase", "retrieval",
    }  # fmt: skip
    assert ropewalk("extend", recipe, "--out", tmp_path / "run").code == 0
    plain = ropewalk("extend", recipe, "--out", tmp_path / "run", *limits)
    assert plain.code == 3
    assert "NOT" in plain.out


def test_every_mistake_is_a_line_and_the_code_is_2(ropewalk, recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("search: {budget", "serch: {bugdet").replace("2x}", "2y}"))
    for command in (["extend", recipe, "--out", tmp_path / "run"], ["recipe", "check", recipe]):
        ended = ropewalk(*command)
        assert ended.code == 2
        assert len(ended.err_lines) == 2
        assert re.search("line 4: serch: .*'search'", ended.err)
        assert re.search("line 6: stages.0.length: .*'2y'", ended.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "stages.0.length=1x"], "reads 128"),
        (["--set", "stages.2.num_trials=0"], "stages.2.num_trials: it is 0"),
        (["--set", "stages.0.length=400x"], "51200 tokens"),
        (["--set", "model.name=./nowhere"], "does not exist"),
        (["--continue-with", "elsewhere"], "external"),
        (["--set", "stages.0={kind: finetune, length: 2x, num_steps: 0}"], "num_steps"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(ropewalk, recipe, tmp_path, arguments, said):
    ended = ropewalk("extend", recipe, "--out", tmp_path / "run", *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_a_folder_of_another_recipe_is_refused(ropewalk, recipe, tmp_path):
    assert ropewalk("extend", recipe, "--out", tmp_path / "run").code == 0
    ended = ropewalk("extend", recipe, "--out", tmp_path / "run", "--set", "search.seed=3")
    assert ended.code == 2
    assert "search.seed" in ended.err


def test_external_training_says_where_to_start_and_how_to_go_on(ropewalk, recipe, tmp_path):
    external = "  - {kind: external, note: Ten steps.}\n"
    recipe.write_text(recipe.read_text().replace("  - {kind: readjust", external + "  - {kind: readjust"))
    ended = ropewalk("extend", recipe, "--out", tmp_path / "run")
    assert ended.code == 0
    start = tmp_path / "run" / "stages" / "02-external" / "start"
    assert f"Start from {start}" in ended.out
    assert "Ten steps." in ended.out
    assert "--continue-with CHECKPOINT" in ended.out
    told = json.loads(ropewalk("extend", recipe, "--out", tmp_path / "run", "--json").out)
    assert told["waits_for"]["start"] == str(start)
    shutil.copytree(start, tmp_path / "trained")
    ended = ropewalk("extend", recipe, "--out", tmp_path / "run", "--continue-with", tmp_path / "trained")
    assert ended.code == 0
    assert "not trained" in ended.err
    assert f"checkpoint: {tmp_path / 'run' / 'result'}" in ended.out


def test_killed_it_goes_on(ropewalk, start, recipe, tmp_path):
    text = recipe.read_text()
    recipe.write_text(text[: text.index("stages:")] + "stages:\n  - {kind: search, length: 2x}\n")
    process = start("extend", recipe, "--out", tmp_path / "run")
    journal = tmp_path / "run" / "stages" / "01-search-2x" / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_bytes().splitlines()[:2]
    assert ropewalk("extend", recipe, "--out", tmp_path / "run").code == 0
    assert journal.read_bytes().splitlines()[:2] == before
    assert ropewalk("extend", recipe, "--out", tmp_path / "whole").code == 0
    ours, theirs = (
        FactorSet.load(tmp_path / name / "result" / "factors.json").longest for name in ("run", "whole")
    )
    assert ours.as_values() == theirs.as_values()


def test_recipes_are_listed_shown_and_copied(ropewalk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ropewalk("recipe", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert all(len(line.split()) > 5 for line in lines)
    (first, *_) = json.loads(ropewalk("recipe", "list", "--json").out)["records"]
    assert first["name"] == "any-model-8x"
    shown = ropewalk("recipe", "show", "any-model-8x").out
    assert shown.startswith("# Read eight times further")
    assert ropewalk("recipe", "copy", "any-model-8x").code == 0
    assert (tmp_path / "any-model-8x.yaml").read_text() == shown
    again = ropewalk("recipe", "copy", "any-model-8x")
    assert again.code == 2
    assert "is there already" in again.err
    assert ropewalk("recipe", "copy", "any-model-8x", "mine.yaml").code == 0
    assert ropewalk("recipe", "check", "mine.yaml").code == 0


def test_check_says_what_it_did_not_compare(ropewalk, recipe, monkeypatch):
    ended = ropewalk("recipe", "check", recipe)
    assert ended.code == 0
    assert "128 tokens" in ended.out
    assert re.search(r"search-2x.*256 tokens", ended.out)
    told = json.loads(ropewalk("recipe", "check", recipe, "--json").out)["records"][0]
    assert (told["window"], told["stages"][0]["length"]) == (128, 256)
    ended = ropewalk("recipe", "check", recipe, "--set", "model.name=./nowhere")
    assert ended.code == 0
    assert "nowhere" in ended.err
    ended = ropewalk("recipe", "check", "no-such-recipe")
    assert ended.code == 2
    assert len(ended.err_lines) == 1
