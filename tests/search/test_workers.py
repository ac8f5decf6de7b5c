"""Measures come in the order of the tasks, whatever happens to the workers."""

import dataclasses

import pytest
from tiny import make_texts

from ropewalk.errors import EvaluationError, ModelError, SettingError
from ropewalk.evaluate.nll import NllSum
from ropewalk.models.model import Model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.meter import DocumentMeasure, DocumentTask, Kept
from ropewalk.search.objective import out_of_memory
from ropewalk.search.objectives import ObjectiveTask, make_readings
from ropewalk.search.workers import (
    MOST_ENDS,
    SEARCH,
    VALIDATION,
    DocumentWorker,
    LoadedModel,
    WorkerEndedError,
    WorkerPool,
    setup_of,
)

LENGTH = 256


class FakeWorker:
    """Answers with the document's number and its own slot; the tests end it."""

    def __init__(self, slot, fakes):
        self.slot, self.fakes = slot, fakes
        self.asked, self.is_ended = [], slot in fakes.broken
        fakes.started.append(self)

    def loaded(self):
        self.answer()
        return self.fakes.loaded.get(self.slot, LoadedModel(weights_sha256="a", environment={"threads": 1}))

    def ask(self, which, task):
        self.asked.append(task.document)
        return lambda: self.answer(task.document)

    def answer(self, document=None):
        if document is not None and document in self.fakes.fatal:
            self.is_ended = True
        if self.is_ended:
            raise WorkerEndedError("killed")
        self.fakes.answered.append(document)
        return DocumentMeasure(sums={"nats": NllSum(nll_sum_nats=float(document or 0), num_tokens=1)})

    def close(self):
        self.is_ended = True


class Fakes:
    """All workers of a test: started ones, slots that can't start again, documents that end a worker."""

    def __init__(self):
        self.started, self.answered = [], []
        self.broken, self.fatal, self.loaded = set(), set(), {}

    def pool(self, num_workers=2):
        pool = WorkerPool(lambda slot: FakeWorker(slot, self), num_workers, "a")
        pool.open()
        self.answered.clear()
        return pool


@pytest.fixture
def fakes():
    return Fakes()


@pytest.fixture
def factors(loaded):
    return scheme_factors("yarn", loaded.geometry, LENGTH)


@pytest.fixture
def task_of(factors):
    return lambda document, **more: DocumentTask(factors=factors, document=document, **more)


@pytest.fixture
def measured(task_of):
    """The documents of the measures, in their order."""

    def measure(pool, documents):
        found = pool.measure_all(SEARCH)(map(task_of, documents))
        return [int(one.sums["nats"].nll_sum_nats) for one in found]

    return measure


def test_measures_come_in_order_from_workers_in_turn(fakes, measured):
    pool = fakes.pool()
    assert measured(pool, [4, 0, 3]) == [4, 0, 3]
    assert measured(pool, [3, 2]) == [3, 2]
    assert [worker.asked for worker in fakes.started] == [[4, 3, 2], [0, 3]]


def test_a_document_is_measured_where_its_keys_are(fakes, task_of, factors):
    pool = fakes.pool()
    for documents in ([4, 0, 3, 1, 2], [3, 2]):
        tasks = [task_of(document, kept=Kept(factors=factors)) for document in documents]
        assert len(list(pool.measure_all(SEARCH)(tasks))) == len(documents)
    assert [worker.asked for worker in fakes.started] == [[4, 0, 2, 2], [3, 1, 3]]


def test_what_comes_next_is_begun_once_and_used_if_it_comes(fakes, task_of):
    pool = fakes.pool()
    measure_all = pool.measure_all(SEARCH)
    tasks = [task_of(document) for document in range(9)]

    def documents(now, ahead):
        found = measure_all(tasks[now : now + 1], tasks[ahead:])
        return [int(one.sums["nats"].nll_sum_nats) for one in found]

    assert documents(0, ahead=1) == [0]
    assert [worker.asked for worker in fakes.started] == [[0, 2, 4], [1, 3]], "two for each worker"
    assert documents(1, ahead=2) == [1]
    assert [worker.asked for worker in fakes.started] == [[0, 2, 4], [1, 3, 5]]
    assert list(pool.measure_all(VALIDATION)([tasks[2]])), "of another set"
    assert documents(2, ahead=4) == [2]
    assert fakes.answered == [0, 1, 2, 2], "3 is dropped, without a wait for it"
    assert documents(3, ahead=9) == [3]
    asked = [document for worker in fakes.started for document in worker.asked]
    assert sorted(asked) == [0, 1, 2, 2, 3, 3, 4, 5, 6, 7]


def test_what_was_begun_by_a_worker_that_ended_is_measured_again(fakes, task_of):
    pool = fakes.pool()
    measure_all = pool.measure_all(SEARCH)
    tasks = [task_of(document) for document in range(4)]
    assert list(measure_all(tasks[:1], tasks[1:]))
    fakes.started[1].is_ended = True
    with pytest.warns(UserWarning, match="document 1") as warned:
        assert len(list(measure_all(tasks[1:]))) == 3
    assert len(warned) == 1
    assert sorted(fakes.answered, key=str) == [0, 1, 2, 3, None]


def test_a_new_worker_measures_what_one_that_ended_did_not(fakes, measured):
    pool = fakes.pool()
    fakes.started[1].is_ended = True
    with pytest.warns(UserWarning, match="document 1") as warned:
        assert measured(pool, range(5)) == [0, 1, 2, 3, 4]
    assert len(warned) == 1
    assert sorted(fakes.answered, key=str) == [0, 1, 2, 3, 4, None]
    assert [worker.slot for worker in fakes.started] == [0, 1, 1]
    assert measured(pool, range(5)) == [0, 1, 2, 3, 4]
    assert fakes.started[2].asked == [1, 3, 0, 2, 4]


def test_the_others_measure_it_where_no_new_worker_starts(fakes, measured):
    pool = fakes.pool()
    fakes.broken.add(1)
    fakes.started[1].is_ended = True
    with pytest.warns(UserWarning, match="document 1"):
        assert measured(pool, range(4)) == [0, 1, 2, 3]
    assert measured(pool, range(4)) == [0, 1, 2, 3]
    assert sorted(fakes.answered) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.filterwarnings("ignore:Worker")
def test_it_is_an_error_if_all_workers_ended(fakes, measured):
    pool = fakes.pool()
    fakes.broken |= {0, 1}
    for worker in fakes.started:
        worker.is_ended = True
    with pytest.raises(EvaluationError, match="workers"):
        measured(pool, range(4))


@pytest.mark.filterwarnings("ignore:Worker")
def test_a_document_that_ends_every_worker_is_an_error(fakes, measured):
    pool = fakes.pool()
    fakes.fatal.add(1)
    with pytest.raises(EvaluationError, match="document 1"):
        measured(pool, [1])
    assert sum(1 in worker.asked for worker in fakes.started) == MOST_ENDS


@pytest.mark.parametrize(
    ("other", "error", "noun"),
    [
        (LoadedModel(weights_sha256="b", environment={"threads": 1}), ModelError, "weights"),
        (LoadedModel(weights_sha256="a", environment={"threads": 2}), SettingError, "threads"),
    ],
)
def test_workers_that_would_measure_something_else_are_refused(fakes, other, error, noun):
    fakes.loaded[1] = other
    with pytest.raises(error, match=noun):
        fakes.pool()


def test_a_worker_that_ends_before_it_has_a_model_is_an_error(fakes):
    fakes.broken.add(1)
    with pytest.raises(EvaluationError, match="model"):
        fakes.pool()


@pytest.fixture
def objective_task(loaded, tmp_path):
    documents = make_texts(tmp_path, loaded.tokenizer, length=LENGTH)
    return ObjectiveTask(
        documents=documents, tokenizer=loaded.tokenizer, original_length=64, target_length=LENGTH, seed=0
    )


def test_a_worker_s_process_measures_as_this_one_does(loaded, objective_task, task_of):
    setup = setup_of(loaded, "perplexity", 0.5, {SEARCH: objective_task})
    worker = DocumentWorker(dataclasses.replace(setup, num_threads=1))
    assert worker.load().weights_sha256 == loaded.weights_sha256
    task = task_of(1, weights={"perplexity": 0.1, "short perplexity": 0.2})
    expected = make_readings("perplexity", objective_task, 0.5).meter(loaded).measure(task)
    found = worker.measure(SEARCH, task)
    assert found.sums == expected.sums
    assert (found.by_log_factor == expected.by_log_factor).all()
    assert found.by_log_attention == expected.by_log_attention


def test_a_worker_s_process_raises_what_another_process_can_read(loaded, objective_task, task_of):
    setup = setup_of(loaded, "failing_readings:by_draw", 0.0, {SEARCH: objective_task})
    worker = DocumentWorker(setup)
    worker.load()
    with pytest.raises(MemoryError) as caught:
        worker.measure(SEARCH, task_of(0, draw=1))
    assert out_of_memory(caught.value).reason == "out of memory: CUDA error: out of memory, 2 GiB were needed"


def test_only_a_model_that_can_be_loaded_again_is_given_to_workers(loaded, objective_task):
    sets = {SEARCH: objective_task}
    assert setup_of(loaded, "perplexity", 0.0, sets).sets[SEARCH].tokenizer is None
    with pytest.raises(SettingError, match="load_model"):
        setup_of(Model.wrap(loaded, full_attention=True), "perplexity", 0.0, sets)
    next(loaded.model.parameters()).data.add_(1.0)
    with pytest.raises(SettingError, match="changed"):
        setup_of(loaded, "perplexity", 0.0, sets)


def test_a_model_in_memory_has_no_name_to_load(tiny_model, objective_task):
    with pytest.raises(SettingError, match="load_model"):
        setup_of(Model(tiny_model), "perplexity", 0.0, {SEARCH: objective_task})
