"""`benchmarks/replays.py`: a recorded search of the default strategy is equal, a changed one is not."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pytest

import replays

RACE = replays.RESULTS / "race" / "today-8x-gradient-s0" / "journal.jsonl"


def test_every_journal_of_the_default_strategy_is_found():
    assert RACE in set(replays.journals(replays.DEFAULT_STRATEGY))


@pytest.mark.parametrize(
    "name",
    ["race/scale-8x-gradient-free-s1", "race/scale-32x-gradient-s0", "scale-model-512x/stages/06-at-512x"],
)
def test_a_recorded_search_is_equal(name):
    replayed = replays.replay(replays.RESULTS / name / "journal.jsonl")
    assert replayed.difference is None
    assert replayed.resume_difference is None
    assert replayed.num_asked > 0


def changed(folder, change):
    """A copy of a journal with another trial 10, a step of the descent."""
    lines = [json.loads(line) for line in RACE.read_text().splitlines()]
    change(next(line for line in lines if line.get("index") == 10))
    path = folder / "journal.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return replays.replay(path)


def test_the_last_bit_of_a_lambda_is_noticed(tmp_path):
    def change(trial):
        trial["candidate"]["rescale_factors"][20] += 1e-9

    replayed = changed(tmp_path, change)
    assert "trial 10: lambda" in replayed.difference
    assert "trial 10" in replayed.resume_difference


def test_another_gradient_leads_elsewhere(tmp_path):
    def change(trial):
        trial["gradient"][0] += 0.1

    replayed = changed(tmp_path, change)
    assert "trial 11: lambda" in replayed.difference
