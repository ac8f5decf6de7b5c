"""Reading document by document: what a race saves, what failures cost, and that neither changes a value."""

import dataclasses
import math

import numpy as np
import pytest
from quadratic import Bowl, make_space, search_on

from ropewalk.search.evaluation import Measurer
from ropewalk.search.racing import Race, RacingSettings
from ropewalk.search.trial import Query

SPACE = dataclasses.replace(make_space(), start_tokens=(0,))
NUM_DOCUMENTS = 6


def at(level):
    return SPACE.candidate(np.full(12, level), 0, 1.0)


def race(**settings):
    return Race([1] * NUM_DOCUMENTS, RacingSettings(error=0.01, **settings))


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_racing_changes_no_value_that_is_finished(strategy):
    """The same seed; random draws whatever it is told, so there every candidate can be compared."""
    # Documents that differ much, so that a race is not over after the first of them.
    with_race = search_on(strategy, Bowl(SPACE, NUM_DOCUMENTS, spread=1.0), budget=150, race=race())
    without = search_on(strategy, Bowl(SPACE, NUM_DOCUMENTS, spread=1.0), budget=300)
    values = {trial.candidate: trial.value for trial in without.trials}
    finished = [trial for trial in with_race.trials if trial.value is not None]
    shared = [trial for trial in finished if trial.candidate in values]
    assert with_race.num_dropped > 20
    assert len(shared) >= 17, "nothing is dropped before the race has 16 teachers beside the best"
    assert max(trial.index for trial in shared) >= 17, "and some finish after that"
    assert all(trial.value == values[trial.candidate] for trial in shared)
    if strategy == "random":
        assert len(with_race.trials) > 160, "what a race saves is spent on other candidates"
        common = min(len(with_race.trials), len(without.trials))
        assert [t.candidate for t in with_race.trials[:common]] == [
            t.candidate for t in without.trials[:common]
        ]
        assert not any(
            trial.value is None and values[trial.candidate] < with_race.best.value
            for trial in with_race.trials[:common]
        ), "no winner was dropped"


def test_a_dropped_candidate_is_told_with_what_was_read():
    objective = Bowl(SPACE, NUM_DOCUMENTS)
    outcome = search_on("random", objective, budget=150, race=race())
    for trial in outcome.trials:
        if trial.estimate is None:
            continue
        num_read = len(trial.documents)
        assert trial.documents == tuple(range(num_read))
        assert 1 <= num_read < NUM_DOCUMENTS
        assert trial.cost == pytest.approx(num_read / NUM_DOCUMENTS)
        assert trial.failure.startswith(f"dropped after {num_read} of 6 documents: at least ")
        assert len(trial.parts["bowl"]) == num_read
        assert not trial.is_complete
        truth = Measurer(objective, None).measure(Query(candidate=trial.candidate), "trial")
        assert math.log(trial.estimate) == pytest.approx(math.log(truth.value), abs=0.5)
    assert outcome.cost == pytest.approx(sum(trial.cost for trial in outcome.trials))


def run_race_ahead():
    """A race that has seen enough, with a leader that no other level comes near."""
    objective, ahead = Bowl(SPACE, NUM_DOCUMENTS), race()
    measurer = Measurer(objective, ahead)
    for level in range(100, 140):
        parts = measurer.measure(Query(candidate=at(level)), "check").parts
        ahead.finished(objective.shares(parts))
    return measurer


@pytest.mark.parametrize(
    ("query", "kind", "is_raced"),
    [
        ({}, "trial", True),
        ({}, "check", False),
        ({}, "free", False),
        ({"documents": (0, 1, 2, 3)}, "trial", False),
        ({"gradient": True}, "trial", False),
    ],
)
def test_only_a_strategy_s_own_whole_values_are_raced(query, kind, is_raced):
    found = run_race_ahead().measure(Query(candidate=at(700), **query), kind)
    assert (found.estimate is not None) == is_raced
    assert (found.value is None) == is_raced


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_failure_costs_what_was_read_of_it(wrong):
    class FailsAtTheThird(Bowl):
        def measure(self, candidate, document):
            return (wrong,) if document == 2 else super().measure(candidate, document)

    found = Measurer(FailsAtTheThird(SPACE, NUM_DOCUMENTS), None).measure(Query(candidate=at(3)), "trial")
    assert (found.value, found.failure) == (None, f"the value is {wrong}")
    assert found.cost == pytest.approx(3 / NUM_DOCUMENTS)


def test_out_of_memory_in_a_gradient_is_a_failure_of_its_full_cost():
    class Full(Bowl):
        def differentiate(self, candidate, document):
            raise MemoryError

    query = Query(candidate=at(3), documents=(0, 4), gradient=True)
    found = Measurer(Full(SPACE, NUM_DOCUMENTS), None).measure(query, "trial")
    assert (found.failure, found.gradient) == ("out of memory", None)
    assert found.cost == pytest.approx(3 * 2 / NUM_DOCUMENTS)


def test_a_gradient_that_is_not_finite_is_a_failure():
    class Steep(Bowl):
        def differentiate(self, candidate, document):
            nats, rows = super().differentiate(candidate, document)
            return nats, rows + math.inf

    found = Measurer(Steep(SPACE, 2), None).measure(Query(candidate=at(3), gradient=True), "trial")
    assert (found.value, found.failure) == (None, "the gradient is not finite")


@pytest.mark.parametrize("documents", [None, (1,), (5, 0, 3)])
def test_the_bowl_s_gradient_is_that_of_ln_value(documents):
    """Central differences in the space's coordinates, with the attention factor searched."""
    space = dataclasses.replace(SPACE, attention_factors=(1.0, 1.1, 1.2), step=1e-9, monotone=False)
    objective = Bowl(space, NUM_DOCUMENTS)
    measurer = Measurer(objective, None)
    middle = space.candidate(np.full(12, 3 * 10**8), 0, 1.0)
    asked = Query(candidate=middle, documents=documents, gradient=True)
    gradient = np.array(measurer.measure(asked, "trial").gradient)
    here = space.coordinates(middle)

    def ln_value(coordinates):
        lambdas = tuple(np.exp(coordinates[:-1]))
        moved = dataclasses.replace(
            middle, rescale_factors=lambdas, attention_factor=float(np.exp(coordinates[-1]))
        )
        return math.log(measurer.measure(Query(candidate=moved, documents=documents), "trial").value)

    for index, row in enumerate(np.eye(13) * 1e-4):
        slope = (ln_value(here + row) - ln_value(here - row)) / 2e-4
        assert gradient[index] == pytest.approx(slope, rel=1e-5, abs=1e-5), index
