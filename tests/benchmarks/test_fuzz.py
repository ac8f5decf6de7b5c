"""`benchmarks/fuzz.py`: a few dozen cases of every kind, and failures that it must not miss."""

import os
import sys
import time
from pathlib import Path
from random import Random

import pytest

from ropewalk.errors import SettingError

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzz
from fuzzing.kinds import KINDS
from fuzzing.mutations import mutate_bytes, mutate_json, mutate_text
from fuzzing.watching import by_command, try_case


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_cases_of_each_kind_are_tried(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcomes = list(fuzz.try_cases(kind, range(6), seed=3, seconds=60.0, folder=tmp_path))
    assert [one["case"] for one in outcomes] == list(range(6))
    assert [one for one in outcomes if one["ending"] not in fuzz.PASSED] == []


def value():
    return "value"


def refuses():
    raise SettingError("The budget is 0, but must be above 0.")


def refuses_in_two_lines():
    raise SettingError("The budget is 0,\nbut must be above 0.")


def crashes():
    return {}["no such key"]


def hangs():
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


def writes_outside():
    try:
        Path("../outside.txt").write_text("x")
    except OSError:
        return "refused"
    return "value"


def renames_outside():
    Path("inside.txt").write_text("x")
    Path("inside.txt").rename("../outside.txt")


def starts_a_program():
    os.system("true")


@pytest.mark.parametrize(
    ("attempt", "ending"),
    [
        (value, "value"),
        (refuses, "refused"),
        (refuses_in_two_lines, "crash"),
        (crashes, "crash"),
        (hangs, "hang"),
        (writes_outside, "outside"),
        (renames_outside, "outside"),
        (starts_a_program, "outside"),
        (lambda: by_command("factors", "show", "none.json"), "refused"),
        (lambda: by_command("recipe", "list"), "value"),
    ],
)
def test_how_a_case_ends_is_seen(attempt, ending, tmp_path, monkeypatch):
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    assert try_case(attempt, inside, seconds=5.0 if ending != "hang" else 0.2).kind == ending
    assert not (tmp_path / "outside.txt").exists()


def test_a_case_is_its_seed_and_number_and_differs_from_others():
    document = {"a": [1, 2.5, "x"], "b": {"c": None}}
    for mutate, given in ((mutate_json, document), (mutate_text, "a: 1\nb: 2\n"), (mutate_bytes, b"abc" * 9)):
        made = [mutate(Random(f"0-{case}"), given) for case in range(60)]
        assert made == [mutate(Random(f"0-{case}"), given) for case in range(60)]
        assert len(set(made)) > 30
    assert document == {"a": [1, 2.5, "x"], "b": {"c": None}}


def test_a_failure_is_counted_and_told_by_its_place():
    counts = {"configs": dict.fromkeys(fuzz.ENDINGS, 0) | {"value": 3, "crash": 2}}
    said = ["KeyError: 'a' in describe.py:7 describe", "KeyError: 'b' in describe.py:7 describe"]
    failures = [{"case": case, "ending": "crash", "said": one} for case, one in enumerate(said)]
    result = {"counts": counts, "failures": {"configs": failures}}
    assert "| configs | 5 | 3 | 0 | 2 | 0 | 0 |" in fuzz.table(result)
    assert fuzz.places(result).split()[:4] == ["configs", "2", "crash", "case"]
