"""The stop set ends a search that only fits, chooses, and is not asked too often."""

import pytest
from quadratic import measure_of_nats

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.search.budget import strategy_budget
from ropewalk.search.early_stopping import MOST_CHECKS, EarlyStopping
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.loop import SearchLoop
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.strategies import Task, make_strategy
from ropewalk.search.trial import Trial
from ropewalk.testing import QuadraticObjective

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=256, num_layers=2)
SPACE = SearchSpace(geometry=GEOMETRY, target_length=2048)


class Contrary(QuadraticObjective):
    """What is better on the search documents is worse here."""

    def measure_document(self, task):
        return measure_of_nats(20.0 - self.nats(task.factors, task.document))


def trial(index, value, kind="trial"):
    candidate = Candidate(rescale_factors=(1.0 + index,) * 8, num_start_tokens=0, attention_factor=1.0)
    return Trial(
        index=index, candidate=candidate, value=value, failure=None, seconds=0.0, cost=1.0, kind=kind
    )


def searched(stop, budget, unconstrained=None):
    objective = QuadraticObjective(SPACE)
    stop_set = EarlyStopping(stop, objective, budget)
    left = strategy_budget(budget, objective, SPACE, stop_set, unconstrained)
    task = Task(space=SPACE, seed=0, budget=left, num_documents=objective.num_documents)
    outcome = SearchLoop(
        make_strategy("evolution", task),
        objective,
        budget=budget,
        early_stopping=stop_set,
        unconstrained=unconstrained,
    ).run()
    return outcome, stop_set


def test_a_search_that_only_fits_is_ended_and_the_first_best_is_chosen():
    outcome, stop_set = searched(Contrary(SPACE), 600.0)
    assert outcome.stopped_by == "stop set"
    assert outcome.cost < 600
    checks = [t for t in outcome.trials if t.kind == "stop"]
    assert len(checks) == 1 + stop_set.patience
    assert outcome.on_validation == min(checks, key=lambda t: t.value)
    assert outcome.best.candidate == outcome.on_validation.candidate
    lowest = min(t.value for t in outcome.trials if t.is_complete)
    assert outcome.best.value > lowest, "it is not what is best on the search documents"


@pytest.mark.parametrize("budget", [70.0, 150.0, 600.0])
def test_checks_and_unconstrained_candidates_are_within_the_budget(budget):
    unconstrained = UnconstrainedCandidates.beyond("any")
    outcome, stop_set = searched(QuadraticObjective(SPACE, 2), budget, unconstrained)
    checks = [t for t in outcome.trials if t.kind == "stop"]
    assert outcome.stopped_by == "budget"
    assert 1 <= len(checks) <= stop_set.num_checks <= MOST_CHECKS
    assert all(t.cost == pytest.approx(0.5) for t in checks), "two documents where four are searched"
    assert len([t for t in outcome.trials if t.kind == "free"]) == unconstrained.num_candidates
    assert outcome.cost <= budget + 1e-9
    assert outcome.unconstrained is not None
    assert outcome.best.kind != "free"


def test_patience_counts_checks_without_a_new_lowest():
    stop_set = EarlyStopping(QuadraticObjective(SPACE), QuadraticObjective(SPACE), 100.0, patience=2)
    for index, value in enumerate([5.0, 6.0, 4.0, 4.5]):
        stop_set.record(trial(index, 10.0 - index), trial(index, value, "stop"), float(index))
        assert not stop_set.should_stop
    stop_set.record(trial(4, 1.0), trial(4, 4.0, "stop"), 4.0)
    assert stop_set.should_stop
    assert stop_set.best[1].value == 4.0
    assert stop_set.best[0].index == 2, "of equals, the earlier"


def test_a_patience_of_none_is_refused():
    with pytest.raises(SettingError, match="patience is 0"):
        EarlyStopping(QuadraticObjective(SPACE), QuadraticObjective(SPACE), 100.0, patience=0)


def test_so_many_checks_are_made_as_a_twentieth_of_the_budget_pays():
    def checks(budget, num_documents=4):
        return EarlyStopping(
            QuadraticObjective(SPACE, num_documents), QuadraticObjective(SPACE), budget
        ).num_checks

    assert [checks(budget) for budget in (1.0, 39.0, 60.0, 100.0, 159.0, 160.0, 10_000.0)] == [
        2,
        2,
        3,
        5,
        7,
        8,
        8,
    ]
    assert checks(100.0, num_documents=8) == 2, "one check reads twice the documents"


def test_checks_are_an_interval_apart_and_the_last_is_kept_for_the_end():
    stop_set = EarlyStopping(QuadraticObjective(SPACE), QuadraticObjective(SPACE), 60.0)
    assert stop_set.num_checks == 3
    assert not stop_set.is_due(None, 50.0)
    assert not stop_set.is_due(trial(0, 9.0), 19.0)
    assert stop_set.is_due(trial(0, 9.0), 20.0)
    stop_set.record(trial(0, 9.0), trial(0, 9.0, "stop"), 25.0)
    assert not stop_set.is_due(trial(0, 9.0), 59.0), "this one was checked"
    assert not stop_set.is_due(trial(1, 8.0), 44.0), "20 after the check, and not at 40"
    assert stop_set.is_due(trial(1, 8.0), 45.0)
    stop_set.record(trial(1, 8.0), trial(1, 8.0, "stop"), 45.0)
    assert not stop_set.is_due(trial(2, 7.0), 1000.0)
    assert stop_set.is_new(trial(2, 7.0))
