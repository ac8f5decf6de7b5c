"""The loop's own trials: the twin without n-hat, the stop set, the probes; what they cost, and replays."""

import dataclasses
import math

import numpy as np
import pytest
from quadratic import (
    RecordingObjective,
    Valued,
    journal_values,
    make_space,
    measure_of_nats,
    search_on,
    write_journal,
)

from ropewalk.errors import EvaluationError, RunFolderError
from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.journal import Journal
from ropewalk.search.loop import SearchLoop
from ropewalk.search.strategies import STRATEGY_NAMES, Task
from ropewalk.search.strategies.base import Strategy
from ropewalk.search.trial import Query, Trial
from ropewalk.testing import QuadraticObjective, spaces

PLAIN = dataclasses.replace(make_space(), start_tokens=(0,))
ANY = UnconstrainedCandidates.beyond("any")


class Scripted(Strategy):
    """Asks for what it was given."""

    def __init__(self, space, queries, budget, num_documents=4):
        super().__init__(Task(space=space, seed=0, budget=budget, num_documents=num_documents), None)
        self.queries = list(queries)

    def ask(self):
        return self.queries.pop(0) if self.queries else None

    def tell(self, trial):
        pass


def at(space, level, num_start_tokens=0):
    return space.candidate(np.full(space.num_knots, level), num_start_tokens, space.attention_factors[0])


@pytest.mark.parametrize("name", STRATEGY_NAMES)
@pytest.mark.parametrize("where", ["full, n-hat searched", "spline, monotone, lambda only"])
@pytest.mark.parametrize("budget", [12, 25.5, 60])
def test_never_above_the_budget(name, where, budget):
    space = spaces()[where]
    objective = RecordingObjective(space, 4)
    stop_set = EarlyStopping(RecordingObjective(space, 3), objective, budget)
    outcome = search_on(name, objective, budget=budget, early_stopping=stop_set, unconstrained=ANY)
    assert outcome.cost <= budget + 1e-9
    assert outcome.cost == pytest.approx(sum(trial.cost for trial in outcome.trials))
    kinds = [trial.kind for trial in outcome.trials]
    assert kinds.count("free") == 1
    assert 1 <= kinds.count("stop") <= stop_set.num_checks
    assert {trial.cost for trial in outcome.trials if trial.kind == "stop"} == {0.75}


# ---------------------------------------------------------------- the twin without start tokens


def test_the_twin_read_in_part_is_read_whole(space):
    """That one document of it was tried for a gradient says nothing about all of them."""
    best = at(space, 0, 1)
    twin = best.without_start_tokens()
    queries = [Query(candidate=twin, documents=(1,), gradient=True), Query(candidate=best)]
    outcome = SearchLoop(Scripted(space, queries, 20), RecordingObjective(space, 4), budget=21).run()
    assert outcome.best.candidate == best
    check = outcome.trials[-1]
    assert (check.kind, check.candidate, check.documents) == ("check", twin, None)
    assert outcome.best_without_start_tokens == check


def test_a_twin_that_failed_is_not_tried_again(space):
    best = at(space, 0, 1)
    objective = Valued(space, lambda c: 2.0 if c.num_start_tokens else math.nan)
    queries = [Query(candidate=best.without_start_tokens()), Query(candidate=best)]
    outcome = SearchLoop(Scripted(space, queries, 20, num_documents=1), objective, budget=21).run()
    assert [trial.kind for trial in outcome.trials] == ["trial", "trial"]
    assert outcome.best_without_start_tokens is None


def test_values_of_some_documents_alone_are_no_result(space):
    queries = [Query(candidate=at(space, 0), documents=(0,))]
    with pytest.raises(EvaluationError, match="documents") as error:
        SearchLoop(Scripted(space, queries, 20), RecordingObjective(space, 4), budget=21).run()
    assert "None" not in str(error.value)


# ---------------------------------------------------------------- the stop set


class Rising(QuadraticObjective):
    """On these documents each candidate is worse than the ones before it."""

    def __init__(self, space):
        super().__init__(space, 4)
        self.num_measured = 0

    def measure_document(self, task):
        self.num_measured += 1
        return measure_of_nats(float(self.num_measured))


def test_a_search_that_only_fits_is_ended_and_the_first_check_chosen():
    objective, stop = RecordingObjective(PLAIN, 4), Rising(PLAIN)
    budget = 300
    outcome = search_on(
        "evolution", objective, budget=budget, early_stopping=EarlyStopping(stop, objective, budget)
    )
    assert outcome.stopped_by == "stop set"
    checks = [trial for trial in outcome.trials if trial.kind == "stop"]
    assert len(checks) == 3, "one, and as many as the patience that are no better"
    assert outcome.on_validation == checks[0]
    assert outcome.best.candidate == checks[0].candidate
    lowest = min(trial.value for trial in outcome.trials if trial.is_complete)
    assert outcome.best.value > lowest, "what fits the search documents best is not chosen"
    assert outcome.cost < budget / 2


def test_a_search_that_gets_better_everywhere_is_not_ended():
    objective = RecordingObjective(PLAIN, 4)
    stop_set = EarlyStopping(RecordingObjective(PLAIN, 4), objective, 300)
    outcome = search_on("evolution", objective, budget=300, early_stopping=stop_set)
    assert outcome.stopped_by == "budget"
    assert outcome.best.value == min(trial.value for trial in outcome.trials if trial.is_complete)
    assert outcome.on_validation.candidate == outcome.best.candidate


# ---------------------------------------------------------------- probes


def test_probes_tell_of_the_free_space_and_are_never_best():
    """Values are lower with start tokens, which this space does not have."""
    objective = RecordingObjective(PLAIN, 4)
    outcome = search_on("evolution", objective, budget=60, unconstrained=ANY)
    (free,) = [trial for trial in outcome.trials if trial.kind == "free"]
    assert free.candidate.num_start_tokens == 4
    assert outcome.unconstrained == free
    assert free.value < outcome.best.value
    assert outcome.best.kind == "trial"


# ---------------------------------------------------------------- replays


def run(path, strategy="evolution", **how):
    objective = RecordingObjective(make_space(), 4)
    stop_set = EarlyStopping(RecordingObjective(make_space(), 2), objective, 60)
    with Journal(path) as journal:
        journal.begin({}, {})
        outcome = search_on(
            strategy, objective, journal, budget=60, early_stopping=stop_set, unconstrained=ANY, **how
        )
    return outcome, objective, stop_set


@pytest.mark.parametrize("strategy", ["evolution", "gradient", "hybrid"])
def test_a_replay_with_every_kind_of_trial_ends_alike(tmp_path, monkeypatch, strategy):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    path = tmp_path / "journal.jsonl"
    whole, *_ = run(path, strategy)
    assert {"trial", "stop", "free"} <= {trial.kind for trial in whole.trials}
    lines = path.read_bytes().splitlines(keepends=True)
    cuts = {1, len(lines)} | {
        index + shift for index, trial in enumerate(whole.trials) if trial.kind != "trial" for shift in (1, 2)
    }
    for cut in cuts:
        path.write_bytes(b"".join(lines[:cut]))
        again, objective, stop_set = run(path, strategy)
        assert outline(again) == outline(whole), cut
        if cut == len(lines):
            assert objective.tasks == stop_set.objective.tasks == []


def outline(outcome):
    trials = [dataclasses.replace(trial, seconds=0.0) for trial in outcome.trials]
    return (
        trials,
        outcome.best.index,
        outcome.on_validation.index,
        outcome.unconstrained.index,
        outcome.stopped_by,
    )


@pytest.mark.parametrize("change", [{"documents": [3]}, {"documents": None}, {"gradient": None}])
def test_a_replay_of_other_documents_or_without_the_gradient_is_refused(tmp_path, change):
    path = tmp_path / "journal.jsonl"
    whole, *_ = run(path, "gradient")
    index = next(trial.index for trial in whole.trials if trial.gradient and trial.documents != (3,))
    values = journal_values(path)
    values[index + 1] |= change
    write_journal(path, values)
    with pytest.raises(RunFolderError, match=f"trial {index}"):
        run(path, "gradient")


def test_a_trial_has_a_value_or_a_failure():
    with pytest.raises(AssertionError):
        Trial(index=0, candidate=at(PLAIN, 0), value=1.0, failure="no", seconds=0.0, cost=1.0)
