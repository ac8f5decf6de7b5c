import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import stub_training
import torch
import yaml
from measured_by import away_from_yarn, measured_by
from safetensors.torch import load_file

from ropewalk.cli.main import run as run_command
from ropewalk.errors import DataError, RunFolderError, SettingError
from ropewalk.export.hf import export_hf
from ropewalk.export.markdown import escape
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.recipe.progress import Watch
from ropewalk.recipe.run import run_recipe
from ropewalk.search.objective import Objective
from ropewalk.search.space import attention_choices

WHOLE = """\
  - {kind: search, name: at-2x, length: 2x}
  - {kind: search, name: at-4x, length: 4x}
  - {kind: finetune, name: tune, length: 2x, num_steps: 3, factors: at-2x}
  - {kind: swap, factors: at-4x}
  - {kind: finetune, name: more, length: 4x, num_steps: 2}
  - {kind: search, name: second, length: 8x}
  - {kind: readjust, lengths: [1x, 2x], budget: 8}
  - {kind: evaluate, perplexity: [1x, 8x], sliding_window: true}
"""
SHORT = """\
  - {kind: search, length: 4x}
  - {kind: evaluate, perplexity: [1x, 4x]}
"""


@dataclass
class Seen:
    """What a run told."""

    stages: list = field(default_factory=list)
    num_trials: int = 0
    num_records: int = 0
    num_steps: int = 0

    def watch(self, stop_at=None):
        """`stop_at`: a stage's name, and after how many things that it told."""
        told = 0

        def count(what):
            def on(*_):
                nonlocal told
                setattr(self, what, getattr(self, what) + 1)
                told += 1
                if stop_at == (self.stages[-1][0], told):
                    raise KeyboardInterrupt

            return on

        def on_stage(index, title, is_held, left):
            nonlocal told
            told = 0
            self.stages.append((title, is_held))

        return Watch(
            on_stage=on_stage, on_trial=count("num_trials"), on_record=count("num_records"),
            on_step=count("num_steps"),
        )  # fmt: skip


def files_of(folder):
    """What comes out and what was found: everything but times."""
    names = [path for path in sorted(folder.rglob("*.json")) if path.name.startswith("factors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def test_the_whole_method(recipe_of, tmp_path):
    recipe = recipe_of(WHOLE)
    result = run_recipe(recipe, tmp_path / "run")
    base = load_model(recipe.model.name)
    stages = tmp_path / "run" / "stages"
    first = RescaleFactors.load(stages / "01-at-2x" / "factors.json")
    second = RescaleFactors.load(stages / "02-at-4x" / "factors.json")
    total = RescaleFactors.load(stages / "06-second" / "factors.json")
    # What was pinned in which training.
    assert [(s.length, s.num_steps, f) for s, f in stub_training.calls] == [
        (128, 3, first.as_values()),
        (256, 2, second.as_values()),
    ]
    # The second search is on top of what the model was tuned with, and stored as the total.
    assert total.target_length == 512
    assert total.provenance.settings["own"] == second.as_values()
    assert (total.array() >= second.array() - 1e-9).all()
    searched = attention_choices("search", total.geometry, 512)
    assert min(abs(total.attention_factor - choice) for choice in searched) < 1e-9
    assert np.max(total.array() / second.array()) <= 1.25 * 2 + 1e-9
    # The result: the tuned checkpoint, and a set with the short lengths.
    assert result.factors == FactorSet.load(result.folder / "factors.json")
    assert result.factors.lengths == (64, 128, 512)
    assert result.factors.for_length(512) == total
    tuned = load_model(result.checkpoint)
    assert tuned.geometry == base.geometry
    assert tuned.description.own is None, "the configuration keeps the base's RoPE"
    assert tuned.weights_sha256 == total.provenance.weights_sha256 != base.weights_sha256
    for entry in result.factors.entries:
        entry.require_geometry(tuned.geometry, "the result")
    measured = {(r.metric, r.factors, r.length) for r in result.records}
    assert measured == {
        ("perplexity", "extended", 64), ("perplexity", "extended", 512), ("nll_increase", "extended", 64),
        ("perplexity", "sliding window", 512), ("perplexity", "untouched", 64),
        ("perplexity", "untouched", 512), ("retrieval", "extended", 512),
    }  # fmt: skip
    run_id = json.loads((tmp_path / "run" / "result.json").read_text())["run_id"]
    assert {record.run_id for record in result.records} == {run_id}
    searched = [record for record in result.records if record.factors == "extended"]
    assert all(record.strategy is not None and record.budget for record in searched)
    assert all(len(r.by_document) == r.n for r in result.records if r.metric != "retrieval")
    assert [r.n for r in result.records if r.metric == "retrieval"] == [16], "four facts in each document"
    assert result.is_accepted
    assert (
        json.loads((tmp_path / "run" / "result.json").read_text())["weights_sha256"] == tuned.weights_sha256
    )
    the_card_of_the_result_tells_how_it_was_made(tmp_path / "run", result, recipe.model.name)


def the_card_of_the_result_tells_how_it_was_made(folder, result, base):
    """Exported from the run just now, which takes seconds to make."""
    for run in ([], ["--run", str(folder)]):
        out = folder.parent / f"shipped-{len(run)}"
        given = [str(result.folder), "--factors", str(result.folder / "factors.json"), "--out", str(out)]
        assert run_command(["export", "hf", *given, *run]) == 0
        card = (out / "README.md").read_text()
        heading = card.split("## Results")[0]
        assert "unchanged" not in heading
        assert f"trained from {escape(Path(base).name)}" in heading
        made = card.split("## How it was made")[1].split("##")[0]
        recipe = yaml.safe_load(made[made.index("    ") :])
        assert recipe["model"]["name"] == Path(base).name
        assert str(folder.parent) not in card
        assert [stage["kind"] for stage in recipe["stages"].values()][:3] == ["search", "search", "finetune"]
    (rise,) = [record for record in result.records if record.metric == "nll_increase"]
    assert f"{rise.value:+.4f} ({rise.low:+.4f} to {rise.high:+.4f})" in card
    captions = [line for line in card.splitlines() if "test documents" in line]
    assert ["sliding window" in caption for caption in captions] == [False, True, False]
    assert "4 facts per text" in card
    assert all("n = 4" in caption for caption in captions)
    # The base model is another one, and what was measured on it is not of these weights.
    assert run_command(["export", "hf", base, *given[1:3], "--out", str(out) + "-base", *run]) == 0
    heading = (out.parent / f"{out.name}-base" / "README.md").read_text().split("## Results")[0]
    assert "not the weights" in heading


SWAPPED = """\
  - {kind: search, name: at-2x, length: 2x}
  - {kind: search, name: at-4x, length: 4x}
  - {kind: finetune, length: 2x, num_steps: 2, factors: at-2x}
  - {kind: swap, factors: at-4x}
"""


@pytest.mark.parametrize("num_stages", [3, 4], ids=["tuned last", "swapped last"])
def test_factors_that_were_found_before_the_tuning_belong_to_the_tuned_weights(
    recipe_of, tmp_path, num_stages
):
    recipe = recipe_of("".join(SWAPPED.splitlines(keepends=True)[:num_stages]))
    result = run_recipe(recipe, tmp_path / "run")
    made = result.factors.longest.provenance
    assert made.weights_sha256 == load_model(result.checkpoint).weights_sha256
    assert made.settings["found_on"]["weights_sha256"] == load_model(recipe.model.name).weights_sha256
    factors = FactorSet.load(result.folder / "factors.json")
    export_hf(str(result.folder), factors, tmp_path / "out")  # a warning would be an error
    assert run_recipe(recipe, tmp_path / "run").factors == result.factors


MIXED = """\
  - {kind: search, length: 4x}
  - {kind: finetune, length: 4x, num_steps: 2, mixed_window: true}
"""


def test_short_inputs_that_were_trained_with_the_original_rope_keep_it(recipe_of, tmp_path):
    result = run_recipe(recipe_of(MIXED), tmp_path / "mixed")
    original = result.factors.for_length(64)
    assert result.factors.lengths == (64, 256)
    assert set(original.rescale_factors[0]) == {1.0}
    assert original.attention_factor == 1
    further = run_recipe(recipe_of(MIXED + "  - {kind: search, length: 8x}\n"), tmp_path / "further")
    assert further.factors.for_length(64) == original
    assert further.factors.lengths == (64, 512)
    readjusted = "  - {kind: readjust, lengths: [1x], budget: 8}\n"
    short = run_recipe(recipe_of(MIXED + readjusted), tmp_path / "readjusted")
    assert short.factors.lengths == (64, 256)
    assert short.factors.for_length(64) != original, "who asks for readjustment gets it"
    (journal,) = (tmp_path / "readjusted").rglob("journal-64.jsonl")
    header = json.loads(journal.read_bytes().splitlines()[0])
    assert header["identity"]["text"]["num_documents"] == 4, "twice two, of six short documents"


@pytest.mark.parametrize(
    "keys",
    [
        "passkey: [8x], num_trials: 6",
        "retrieval: [8x], retrieval_settings: {num_facts: 1, num_questions: 6}",
    ],
)
def test_stopped_between_answers_it_asks_the_others(recipe_of, tmp_path, keys):
    recipe = recipe_of(
        f"  - {{kind: search, length: 8x}}\n  - {{kind: evaluate, {keys}, short_rise: false}}\n"
    )
    whole = run_recipe(recipe, tmp_path / "whole")
    first, asked = [], []

    def stop_after_two(progress):
        first.append(progress.answer)
        if len(first) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "stopped", watch=Watch(on_answer=stop_after_two))
    rest = run_recipe(recipe, tmp_path / "stopped", watch=Watch(on_answer=asked.append))

    assert [progress.num_answered for progress in asked] == [3, 4, 5, 6]
    assert not {progress.answer.depth for progress in asked} & {answer.depth for answer in first}
    assert [(r.value, r.by_depth) for r in rest.records] == [(r.value, r.by_depth) for r in whole.records]


def test_the_base_model_is_asked_at_the_lengths_that_it_reads(recipe_of, tmp_path):
    recipe = recipe_of(
        "  - {kind: search, length: 512}\n"
        "  - {kind: evaluate, perplexity: [512], retrieval_settings: {num_facts: 1}}\n",
        "model.original_length=256",
    )
    result = run_recipe(recipe, tmp_path / "run")
    asked = [record for record in result.records if record.metric == "retrieval"]
    assert [(record.factors, record.length) for record in asked] == [
        ("untouched", 256), ("extended", 256), ("extended", 512),
    ]  # fmt: skip
    assert {(record.n, record.documents) for record in asked} == {(4, "report")}
    assert asked[1].share_difference(asked[0]) is not None


def test_a_length_without_room_for_facts_is_left_out_or_refused_if_it_was_given(recipe_of, tmp_path):
    said, seen = [], Seen()
    result = run_recipe(recipe_of(SHORT), tmp_path / "run", watch=Watch(say=said.append))
    assert "retrieval" not in {record.metric for record in result.records}
    assert any("retrieval" in line for line in said)
    with pytest.raises(SettingError, match="facts"):
        run_recipe(recipe_of(SHORT, "stages.1.retrieval=[1x]"), tmp_path / "given", watch=seen.watch())
    assert seen.stages == []


def test_what_a_folder_holds_is_not_done_again(recipe_of, tmp_path):
    recipe, seen = recipe_of(WHOLE), Seen()
    before = run_recipe(recipe, tmp_path / "run")
    files = files_of(tmp_path / "run")
    for path in (tmp_path / "run").rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    after = run_recipe(recipe, tmp_path / "run", watch=seen.watch())
    assert all(is_held for _, is_held in seen.stages)
    assert len(seen.stages) == len(recipe.stages)
    assert (seen.num_trials, seen.num_records, seen.num_steps) == (0, 0, 0)
    assert after == before
    assert files_of(tmp_path / "run") == files


STOPS = [
    ("at-2x", 1), ("at-2x", 3), ("at-4x", 2), ("tune", 1), ("tune", 1), ("more", 1), ("second", 4),
    ("readjust-1x", 2), ("evaluate-1x", 1), ("evaluate-1x", 2),
]  # fmt: skip


def test_stopped_ten_times_it_goes_on_inside_the_stage_and_ends_the_same(recipe_of, tmp_path, monkeypatch):
    """Each stop is where the session then is, which begins where the one before it left off."""
    monkeypatch.chdir(tmp_path)
    recipe, whole, rest = recipe_of(WHOLE), Seen(), Seen()
    expected = run_recipe(recipe, tmp_path / "whole", watch=whole.watch())
    sessions = []
    for number, stop_at in enumerate(STOPS):
        sessions.append(Seen())
        place = "stopped" if number % 2 else tmp_path / "stopped"  # however the folder is named
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, place, watch=sessions[-1].watch(stop_at))
    result = run_recipe(recipe, tmp_path / "stopped", watch=rest.watch())
    sessions.append(rest)
    for what in ("num_trials", "num_steps", "num_records"):
        assert sum(getattr(session, what) for session in sessions) == getattr(whole, what), "nothing twice"
    assert result.factors == expected.factors
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")
    ours, theirs = (
        load_file(tmp_path / name / "result" / "model.safetensors") for name in ("stopped", "whole")
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    values = [[(r.metric, r.length, r.value) for r in made.records] for made in (result, expected)]
    assert values[0] == values[1]


def test_a_result_that_was_changed_is_made_again(recipe_of, tmp_path):
    recipe, seen = recipe_of(SHORT), Seen()
    run_recipe(recipe, tmp_path / "run")
    factors = tmp_path / "run" / "stages" / "01-search-4x" / "factors.json"
    before = factors.read_bytes()
    factors.write_bytes(before.replace(b'"num_start_tokens": 0', b'"num_start_tokens": 4', 1))
    run_recipe(recipe, tmp_path / "run", watch=seen.watch())
    assert seen.stages[0] == ("search-4x", False)
    assert seen.num_trials == 0, "from the journal"
    assert factors.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("search.seed=2", "search.seed"),
        ("stages.0.length=3x", "stages.01-search-3x"),
        ("text.num_test_documents=3", "text.num_test_documents"),
        ("data.seed=9", "data.seed"),
    ],
)
def test_a_folder_of_another_recipe_is_refused_and_left_alone(recipe_of, tmp_path, change, said):
    run_recipe(recipe_of(SHORT), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError) as error:
        changed = (change,) if change != "stages.0.length=3x" else (change, "stages.1.perplexity=[1x]")
        run_recipe(recipe_of(SHORT, *changed), tmp_path / "run")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_limits_may_change_because_they_only_judge(recipe_of, tmp_path):
    seen = Seen()
    assert run_recipe(recipe_of(SHORT), tmp_path / "run").is_accepted
    strict = recipe_of(SHORT, more="accept: {short_nll_rise: -5}")
    result = run_recipe(strict, tmp_path / "run", watch=seen.watch())
    assert not result.is_accepted
    assert all(is_held for _, is_held in seen.stages)


def test_inputs_that_changed_under_a_run_are_named(recipe_of, texts, tmp_path):
    recipe = recipe_of(SHORT)
    run_recipe(recipe, tmp_path / "run")
    file = texts / "searched.jsonl"
    file.write_text(file.read_text().replace("line", "word"))
    with pytest.raises(RunFolderError, match=r"01-search-4x .*text\.search"):
        run_recipe(recipe, tmp_path / "run")


def test_a_base_model_that_changed_under_a_run_is_named(recipe_of, tmp_path, tiny_model):
    recipe = recipe_of(SHORT)
    run_recipe(recipe, tmp_path / "run")
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.add_(0.1)
    tiny_model.save_pretrained(recipe.model.name)
    with pytest.raises(RunFolderError, match="weights_sha256 is"):
        run_recipe(recipe, tmp_path / "run")


def test_a_stage_longer_than_any_document_is_found_before_the_first_one(recipe_of, tmp_path):
    long_search = SHORT + "  - {kind: search, name: far, length: 100x}\n"
    seen = Seen()
    with pytest.raises(DataError, match="6400 tokens"):
        run_recipe(recipe_of(long_search), tmp_path / "run", watch=seen.watch())
    with pytest.raises(DataError, match="No document has 6400"):
        far = "  - {kind: search, length: 100x}\n  - {kind: finetune, length: 100x, num_steps: 1}\n"
        recipe = recipe_of(far, "text.search=stdlib:search", "text.test=stdlib:held-out")
        run_recipe(recipe, tmp_path / "other", watch=seen.watch())
    assert seen.stages == []


def test_two_runs_in_one_folder_are_refused(recipe_of, tmp_path):
    recipe = recipe_of(SHORT)

    def again(*_):
        with pytest.raises(RunFolderError, match="in use"):
            run_recipe(recipe, tmp_path / "run")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "run", watch=Watch(on_stage=again))


def test_killed_at_its_first_write_it_begins(recipe_of, tmp_path):
    """`recipe.json` was half-written, and nothing else was there."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".recipe.json.abcdefgh.partial").write_text("{")
    (tmp_path / "run" / ".lock").touch()
    run_recipe(recipe_of(SHORT), tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*"))


def test_what_a_killed_run_left_half_written_is_cleared(recipe_of, tmp_path):
    recipe = recipe_of(SHORT)
    run_recipe(recipe, tmp_path / "run")
    for place in (".result.json", "stages/01-search-4x/.done.json", "stages/02-evaluate-1x/.records.jsonl"):
        (tmp_path / "run" / f"{place}.abcdefgh.partial").write_text("{")
    (tmp_path / "run" / ".result.partial").mkdir()
    (tmp_path / "run" / ".result.partial" / "model.safetensors").touch()
    run_recipe(recipe, tmp_path / "run")
    assert not list((tmp_path / "run").rglob(".*"))
    assert [path.name for path in (tmp_path / "run" / "result").iterdir()] == ["factors.json"]


def test_foreign_files_are_left_alone(recipe_of, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    (tmp_path / "run" / ".thesis.txt.partial").write_text("mine too")
    with pytest.raises(RunFolderError, match=r"thesis\.txt"):
        run_recipe(recipe_of(SHORT), tmp_path / "run")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".thesis.txt.partial", "thesis.txt"]


def test_a_checkpoint_that_nobody_waits_for_is_an_error(recipe_of, tmp_path):
    with pytest.raises(SettingError, match="external"):
        run_recipe(recipe_of(SHORT), tmp_path / "run", continue_with=tmp_path / "elsewhere")


def test_an_estimate_comes_after_the_first_stage(recipe_of, tmp_path):
    left = []
    run_recipe(recipe_of(SHORT), tmp_path / "run", watch=Watch(on_stage=lambda *told: left.append(told[3])))
    assert left[0] is None
    assert all(seconds > 0 for seconds in left[1:])


def test_a_model_and_texts_that_were_moved_are_the_same_run(recipe_of, texts, tmp_path):
    recipe, seen = recipe_of(SHORT), Seen()
    expected = run_recipe(recipe, tmp_path / "run")
    shutil.copytree(recipe.model.name, tmp_path / "moved" / "model")
    shutil.copy(texts / "searched.jsonl", tmp_path / "moved" / "a.jsonl")
    shutil.copy(texts / "reported.jsonl", tmp_path / "moved" / "b.jsonl")
    moved = recipe_of(
        SHORT, f"model.name={tmp_path / 'moved' / 'model'}", f"text.search={tmp_path / 'moved' / 'a.jsonl'}",
        f"text.test={tmp_path / 'moved' / 'b.jsonl'}",
    )  # fmt: skip
    again = run_recipe(moved, tmp_path / "run", watch=seen.watch())
    assert all(is_held for _, is_held in seen.stages)
    assert again.factors.entries[-1].rescale_factors == expected.factors.entries[-1].rescale_factors


def test_a_stage_s_journal_is_cut_where_it_is_damaged(recipe_of, tmp_path):
    recipe, seen = recipe_of(SHORT), Seen()
    run_recipe(recipe, tmp_path / "run")
    stage = tmp_path / "run" / "stages" / "01-search-4x"
    before = (stage / "factors.json").read_bytes()
    lines = (stage / "journal.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"cost": ', b'"cost": 1')
    (stage / "journal.jsonl").write_bytes(b"".join(lines))
    (stage / "factors.json").unlink()
    with pytest.raises(RunFolderError, match=r"line 4 .*--cut-damaged"):
        run_recipe(recipe, tmp_path / "run")
    run_recipe(recipe, tmp_path / "run", cut_damaged=True, watch=seen.watch())
    assert seen.num_trials == len(lines) - 3
    assert (stage / "factors.json").read_bytes() == before


DAMAGE = [
    b"",
    b"[]",
    b"{}",
    b"{",
    b"null",
    b"\xff",
    b'{"a": 1, "a": 2}',
    b"[" * 100_000,
    b'{"outputs": 1}',
    b"[1]\n[2]\n",
]


@pytest.mark.parametrize(
    "name", ["02-evaluate-1x/done.json", "02-evaluate-1x/records.jsonl", "01-search-4x/done.json"]
)
def test_a_damaged_file_of_a_finished_stage_is_made_again(recipe_of, tmp_path, name):
    recipe = recipe_of(SHORT)
    expected = run_recipe(recipe, tmp_path / "run")
    file = tmp_path / "run" / "stages" / name
    whole = file.read_bytes()
    for damage in [
        *DAMAGE,
        whole.replace(b'"checksum": "', b'"checksum": "0'),
        re.sub(rb'"value": \d', b'"value": 9', whole),
    ]:
        file.write_bytes(damage)
        again = run_recipe(recipe, tmp_path / "run")
        assert [record.value for record in again.records] == [record.value for record in expected.records]


@pytest.mark.parametrize("name", ["recipe.json", "stages/01-search-4x/inputs.json"])
def test_a_damaged_file_that_says_what_is_run_is_named(recipe_of, tmp_path, name):
    recipe = recipe_of(SHORT)
    run_recipe(recipe, tmp_path / "run")
    for damage in DAMAGE:
        (tmp_path / "run" / name).write_bytes(damage)
        with pytest.raises(RunFolderError) as error:
            run_recipe(recipe, tmp_path / "run")
        assert "\n" not in str(error.value)


def test_one_text_is_parted_into_searched_and_reported_documents(recipe_of, texts, tmp_path):
    stages = (
        "  - {kind: search, length: 4x}\n  - {kind: readjust, lengths: [1x], budget: 8}\n"
        + SHORT.splitlines()[1]
    )
    said = []
    recipe = recipe_of(stages, "text.test=null")
    result = run_recipe(recipe, tmp_path / "run", watch=Watch(say=said.append))
    assert any("first 3 documents" in line for line in said)
    (record,) = [r for r in result.records if (r.factors, r.length) == ("extended", 256)]
    assert record.n == 3, "what the searches left of six, though four were asked for"
    assert record.source == str(texts / "searched.jsonl")
    inputs = [
        json.loads(path.read_bytes())["inputs"] for path in sorted((tmp_path / "run").rglob("inputs.json"))
    ]
    assert inputs[0]["text"]["search"] != inputs[2]["text"]["report"]


@pytest.mark.parametrize(
    ("changes", "error", "noun"),
    [
        (("text.test=null", "text.num_documents=6"), DataError, "test documents"),
        (("text.test=null", "text.num_documents=7"), DataError, "test documents"),
    ],
)
def test_a_text_that_is_too_small_to_be_parted_is_refused(recipe_of, tmp_path, changes, error, noun):
    with pytest.raises(error, match=noun):
        run_recipe(recipe_of(SHORT, *changes), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("journal*"))


def test_a_text_that_is_trained_on_too_is_parted_in_three(recipe_of, tmp_path):
    stages = SHORT + "  - {kind: finetune, name: tune, length: 4x, num_steps: 1}\n"
    said = []
    parted = ("text.test=null", "text.num_test_documents=2")
    run_recipe(recipe_of(stages, *parted), tmp_path / "run", watch=Watch(say=said.append))
    assert any("first 3" in line and "next 2" in line and "training" in line for line in said)
    (inputs,) = (tmp_path / "run").rglob("03-tune/inputs.json")
    assert json.loads(inputs.read_bytes())["inputs"]["text"]["sources"][0]["skip"] == 5
    with pytest.raises(SettingError, match="joined by folder"):
        run_recipe(recipe_of(stages, *parted, "data.sources.0.join=folder"), tmp_path / "other")


def test_a_document_in_both_texts_is_refused(recipe_of, texts, tmp_path):
    lines = (texts / "searched.jsonl").read_text().splitlines(keepends=True)
    with (texts / "reported.jsonl").open("a") as file:
        file.write(lines[0])
    with pytest.raises(SettingError, match="search document too"):
        run_recipe(recipe_of(SHORT, "text.num_test_documents=9"), tmp_path / "run")


def test_the_base_model_is_measured_as_it_is_and_a_search_within_its_reach_is_said(recipe_of, tmp_path):
    recipe = recipe_of(SHORT)
    path = Path(recipe.model.name) / "config.json"
    config = json.loads(path.read_text())
    config["max_position_embeddings"] = 512
    config["rope_parameters"] |= {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    path.write_text(json.dumps(config))
    said = []
    result = run_recipe(recipe, tmp_path / "run", watch=Watch(say=said.append))
    assert any("already reads 512" in line for line in said)
    measured = {(r.factors, r.length) for r in result.records if r.metric == "perplexity"}
    assert measured >= {("as configured: llama3 512", 64), ("as configured: llama3 512", 256)}


def test_too_few_documents_are_said_and_a_document_twice_is_refused_at_once(recipe_of, tmp_path, texts):
    said = []
    run_recipe(recipe_of(SHORT, "text.num_documents=6"), tmp_path / "few", watch=Watch(say=said.append))
    assert any("validation documents" in line for line in said)
    rows = (texts / "searched.jsonl").read_text().splitlines()
    (texts / "searched.jsonl").write_text("\n".join([rows[0], rows[1], rows[0]]) + "\n")
    seen = Seen()
    with pytest.raises(SettingError, match="validation document"):
        run_recipe(recipe_of(SHORT), tmp_path / "twice", watch=seen.watch())
    assert seen.stages == []


def test_a_closed_form_that_a_search_stage_writes_is_said(recipe_of, tmp_path, monkeypatch):
    monkeypatch.setattr(Objective, "measure", measured_by(away_from_yarn))
    said = []
    recipe = recipe_of("  - {kind: search, length: 4x, strategy: random}\n")
    result = run_recipe(recipe, tmp_path / "run", watch=Watch(say=said.append))
    assert result.factors.longest.provenance.strategy.startswith("yarn")
    assert any("closed-form scheme" in line and "yarn" in line for line in said)
