"""Workers begin with the next candidates: in less time, and with the same trials, whatever fails or stops."""

import dataclasses
import math
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from quadratic import RecordingObjective, make_space, measure_of_nats, search_on
from tiny import make_texts

from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.plan import plan_search
from ropewalk.search.renewal import TrustRegion
from ropewalk.search.settings import SearchSettings
from ropewalk.search.strategies import STRATEGY_NAMES
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.search.workers import SEARCH, VALIDATION, DocumentWorker, LoadedModel, WorkerPool, setup_of

SMALL = {"evolution": {"population_size": 8, "num_mutations": 4, "num_crossovers": 4, "num_parents": 4}}
SPACE = dataclasses.replace(make_space(), start_tokens=(0,))
TARGET = 256


class Clock:
    """Counts the seconds of workers that take one for each document; nothing else takes time."""

    def __init__(self, measure):
        self.measure, self.now, self.num_begun = measure, 0, 0

    def pool(self, num_workers):
        pool = WorkerPool(lambda slot: ClockWorker(self), num_workers, "a")
        pool.open()
        return pool


class ClockWorker:
    def __init__(self, clock):
        self.clock, self.free_at = clock, 0

    def loaded(self):
        return LoadedModel(weights_sha256="a", environment={})

    def ask(self, which, task):
        self.clock.num_begun += 1
        self.free_at = ends = max(self.free_at, self.clock.now) + 1

        def answer():
            self.clock.now = max(self.clock.now, ends)
            return self.clock.measure[which](task)

        return answer

    def close(self):
        pass


class FailingObjective(RecordingObjective):
    """Some candidates have no value, by their last document."""

    def measure_document(self, task):
        last = task.document == self.num_documents - 1
        if last and int(1000 * task.factors.rescale_factors[0][5]) % 3 == 0:
            return measure_of_nats(math.nan)
        return super().measure_document(task)


def search(name, num_workers, num_documents=3, *, kind=FailingObjective, budget=40, stops=True):
    """The trials without their times, and the clock."""
    objective, validation = kind(SPACE, num_documents), RecordingObjective(SPACE, 2, spread=2.0)
    measure = {SEARCH: objective.measure_document, VALIDATION: validation.measure_document}
    clock = Clock(measure)
    if num_workers:
        pool = clock.pool(num_workers)
        objective._measure_all, validation._measure_all = map(pool.measure_all, (SEARCH, VALIDATION))
    early_stopping = EarlyStopping(validation, objective, budget) if stops else None
    outcome = search_on(
        name, objective, budget=budget, settings=SMALL.get(name), early_stopping=early_stopping
    )
    return [dataclasses.replace(trial, seconds=0.0) for trial in outcome.trials], clock


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_trials_are_the_same_for_any_number_of_workers(name):
    expected, _ = search(name, 0)
    assert any(trial.failure for trial in expected)
    assert any(trial.kind == "stop" for trial in expected)
    for num_workers in (1, 2, 5, 8):
        assert search(name, num_workers)[0] == expected


@pytest.mark.parametrize(
    ("num_workers", "num_documents", "seconds"), [(1, 3, 72), (2, 3, 36), (4, 1, 6), (8, 1, 3), (8, 3, 9)]
)
def test_a_generation_occupies_all_workers(num_workers, num_documents, seconds):
    """Three generations of 8: their documents divided by the workers, rounded up in each generation."""
    trials, clock = search(
        "evolution", num_workers, num_documents, kind=RecordingObjective, budget=24, stops=False
    )
    assert (len(trials), clock.now) == (24, seconds)
    assert clock.num_begun == 24 * num_documents, "nothing beyond the budget is begun"


def test_a_query_of_one_document_is_not_begun_ahead():
    _, clock = search("gradient", 2, kind=RecordingObjective, budget=9, stops=False)
    _, alone = search("gradient", 1, kind=RecordingObjective, budget=9, stops=False)
    assert clock.num_begun == alone.num_begun
    assert clock.now < alone.now, "the initial candidates"


@pytest.fixture
def in_this_process(monkeypatch):
    """A pool of as many workers as given, whose processes are this one, each with its own model."""
    numbers = []

    @contextmanager
    def opened(settings, model, *, objective, short_weight, sets):
        setup = setup_of(model, objective, short_weight, sets)
        setup = dataclasses.replace(setup, num_threads=torch.get_num_threads())
        pool = WorkerPool(lambda slot: ModelWorker(setup), numbers[-1], model.weights_sha256)
        pool.open()
        yield pool

    monkeypatch.setattr("ropewalk.search.plan.open_workers", opened)
    return numbers.append


class ModelWorker:
    """Measures when it is asked, as a process would that has nothing else to do."""

    def __init__(self, setup):
        self._worker = DocumentWorker(setup)

    def loaded(self):
        return self._worker.load()

    def ask(self, which, task):
        found = self._worker.measure(which, task)
        return lambda: found

    def close(self):
        pass


def test_keys_that_are_renewed_in_between_are_not_mixed_up(loaded, tmp_path, in_this_process, monkeypatch):
    """A candidate that was begun with keys that were then renewed is measured again."""
    monkeypatch.setattr("ropewalk.search.plan.TrustRegion", partial(TrustRegion, radius=0.01))
    documents = make_texts(tmp_path, loaded.tokenizer, length=TARGET, names="abcde")
    settings = SearchSettings(strategy="evolution", exact=False, budget=6, seed=3)
    plan = plan_search(loaded.description, TARGET, settings, closed_forms=False)
    sets = (documents.part(0, 3), documents.part(3, 5))

    def trials(pool=None):
        found = plan.run(loaded, sets[0], validation_documents=sets[1], workers=pool).outcome
        return [dataclasses.replace(trial, seconds=0.0) for trial in found.trials]

    expected = trials()
    assert any(trial.renewal is not None and trial.renewal.error is not None for trial in expected)
    for num_workers in (2, 4):
        in_this_process(num_workers)
        with plan.open_workers(WorkerSettings(), loaded, *sets) as pool:
            assert trials(pool) == expected
