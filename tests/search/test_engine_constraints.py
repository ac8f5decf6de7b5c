"""The front of several terms, unconstrained candidates, and strategies and objectives of plugins."""

import re
from typing import get_args

import numpy as np
import pytest
from quadratic import make_space

from ropewalk.errors import SettingError
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.objectives import objective_maker
from ropewalk.search.result import pareto_front
from ropewalk.search.settings import SearchEngine
from ropewalk.search.strategies import Task, make_strategy
from ropewalk.search.trial import Trial

SPACE = make_space()


def trial(index, *nats, kind="trial", documents=None, names=("far", "near")):
    return Trial(
        index=index,
        candidate=SPACE.candidate(np.full(12, index), 0, 1.0),
        value=2.0,
        failure=None,
        seconds=0.0,
        cost=1.0,
        kind=kind,
        documents=documents,
        parts={name: (value / 2, value / 2) for name, value in zip(names, nats, strict=False)},
    )


def test_the_front_is_what_no_other_beats_in_every_term():
    front = pareto_front([trial(0, 5.0, 5.0), trial(1, 4.0, 6.0), trial(2, 6.0, 6.0), trial(3, 3.0, 9.0)])
    assert front == [
        {"trial": 3, "nats": {"far": 3.0, "near": 9.0}},
        {"trial": 1, "nats": {"far": 4.0, "near": 6.0}},
        {"trial": 0, "nats": {"far": 5.0, "near": 5.0}},
    ]


def test_of_equal_trials_the_first_is_on_the_front():
    assert [entry["trial"] for entry in pareto_front([trial(4, 5.0, 5.0), trial(7, 5.0, 5.0)])] == [4]


def test_a_tie_in_one_term_is_beaten_by_the_other():
    assert [entry["trial"] for entry in pareto_front([trial(0, 5.0, 6.0), trial(1, 5.0, 5.0)])] == [1]


@pytest.mark.parametrize(
    "other",
    [
        trial(1, 1.0, 1.0, documents=(0,)),
        trial(1, 1.0, 1.0, kind="stop"),
        trial(1, 1.0, 1.0, kind="free"),
    ],
    ids=["read in part", "of the stop set", "a probe"],
)
def test_what_can_not_be_chosen_is_not_on_the_front(other):
    assert [entry["trial"] for entry in pareto_front([trial(0, 5.0, 5.0), other])] == [0]


def test_one_term_has_no_front():
    assert pareto_front([trial(0, 5.0), trial(1, 4.0)]) == []
    assert pareto_front([]) == []


@pytest.mark.parametrize("engine", get_args(SearchEngine))
@pytest.mark.parametrize("count", [0, 4])
def test_as_many_unconstrained_candidates_as_are_budgeted_for(engine, count):
    unconstrained = UnconstrainedCandidates.beyond(engine)
    if engine == "ropewalk":
        assert unconstrained is None
        return
    best = SPACE.candidate(np.arange(12), count, 1.2)
    found = unconstrained.candidates(best)
    assert len(found) == unconstrained.num_candidates
    assert {one.rescale_factors for one in found} == {best.rescale_factors}
    assert {one.attention_factor for one in found} == {1.2}


MODULE = """
from ropewalk.search.strategies.random_search import RandomSearch
number = 3
class NoSettings(RandomSearch):
    Settings = dict
class Mine(RandomSearch):
    pass
def no_weight(task):
    from ropewalk.search.objectives import perplexity
    from dataclasses import replace
    return [replace(perplexity(task)[0], weight=0.0)]
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "outside_mine.py").write_text(MODULE)
    (tmp_path / "outside_broken.py").write_text("1 / 0\n")
    (tmp_path / "outside_torn.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(str(tmp_path))


NAMES = [
    ("outside_missing:Name", "can't be imported (No module named 'outside_missing')"),
    ("outside_broken:Name", "can't be imported (ZeroDivisionError: division by zero)"),
    ("outside_torn:Name", "can't be imported (SyntaxError"),
    (":Name", "can't be imported"),
    (".relative:Name", "can't be imported"),
    ("outside_mine:", "outside_mine has no ''"),
    ("outside_mine:Absent", "outside_mine has no 'Absent'"),
    ("outside_mine:number", "is 3, but must be a"),
    ("plain", "'plain'"),
]


@pytest.mark.parametrize(("name", "said"), [*NAMES, ("outside_mine:NoSettings", "attribute `Settings`")])
def test_a_strategy_that_can_not_be_had_is_one_line(mine, name, said):
    with pytest.raises(SettingError, match=re.escape(said)) as error:
        make_strategy(name, Task(space=SPACE, seed=0, budget=9))
    assert "\n" not in str(error.value)
    assert "strategy" in str(error.value)


@pytest.mark.parametrize(("name", "said"), NAMES)
def test_an_objective_that_can_not_be_had_is_one_line(mine, name, said):
    with pytest.raises(SettingError, match=re.escape(said)) as error:
        objective_maker(name)
    assert "\n" not in str(error.value)
    assert "objective" in str(error.value)


def test_a_strategy_and_an_objective_from_outside_are_taken(mine):
    assert make_strategy("outside_mine:Mine", Task(space=SPACE, seed=0, budget=9)).ask() is not None
    assert callable(objective_maker("outside_mine:no_weight"))
