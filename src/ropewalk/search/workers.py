"""Workers: processes that measure documents, and the order in which their results come.

    WorkerPool        gives each task to a worker, and yields the measures in the order of the tasks
    Worker            one process, as the pool sees it; `ray_workers` has those of Ray
    DocumentWorker    what runs in that process: a model, and the documents that it can measure

Workers get tasks in turn, but a document that is judged from kept keys goes to the same worker every time,
which has them. If a worker ends, a new one takes its place, and the tasks without an answer are given again.
A task has one answer, and an answer is used once, so that no document is lost or counted twice.

Workers that have nothing to do begin with tasks that come next. A measure depends on its task alone, and the
answer is used only if an equal task is given later, so that no value depends on what was begun ahead.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import torch

from ropewalk.errors import EvaluationError, ModelError, SettingError
from ropewalk.models.fingerprint import hash_weights
from ropewalk.models.model import ALL_GPUS, Model, load_model
from ropewalk.search.meter import DocumentMeasure, DocumentMeter, DocumentTask
from ropewalk.search.objective import MeasureAll, out_of_memory
from ropewalk.search.objectives import ObjectiveTask, make_readings
from ropewalk.search.provenance import describe_environment
from ropewalk.store import differences

MOST_ENDS = 3  # workers that may end with one document, before the search does
TASKS_AHEAD = 2  # for each worker, begun before they are needed: one that runs, and one that waits
SEARCH, VALIDATION = "search", "validation"

Answer = Callable[[], DocumentMeasure]


class WorkerEndedError(Exception):
    """A worker's process ended before it answered; the message says why."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What a worker loaded: the hash of its weights, and its environment (`describe_environment`)."""

    weights_sha256: str
    environment: dict[str, Any]


class Worker(Protocol):
    """A process that measures documents. All methods may raise `WorkerEndedError`."""

    def loaded(self) -> LoadedModel:
        """Waits until the model is loaded."""

    def ask(self, which: str, task: DocumentTask) -> Answer:
        """Begins to measure a document, and returns a function that waits for the result."""

    def close(self) -> None:
        """Ends the process, if it has not ended."""


@dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker process loads.

    Attributes:
        load_options: the arguments of `load_model`.
        weights_sha256: what the loaded weights must have.
        objective, short_weight: as for `make_readings`.
        sets: the documents of the search and of the validation, by name, without a tokenizer.
        num_threads: of torch.
    """

    load_options: Mapping[str, Any]
    weights_sha256: str
    objective: str
    short_weight: float
    sets: Mapping[str, ObjectiveTask]
    num_threads: int = 1


class DocumentWorker:
    """Runs in a worker's process."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._meters: dict[str, DocumentMeter] = {}

    def load(self) -> LoadedModel:
        """Loads the model, and prepares the readings of the documents."""
        setup = self._setup
        torch.set_num_threads(setup.num_threads)
        model = load_model(**setup.load_options)
        for which, task in setup.sets.items():
            task = replace(task, tokenizer=model.tokenizer)
            self._meters[which] = make_readings(setup.objective, task, setup.short_weight).meter(model)
        return LoadedModel(weights_sha256=model.weights_sha256, environment=describe_environment(model))

    def measure(self, which: str, task: DocumentTask) -> DocumentMeasure:
        """Measures a document of a set.

        Raises:
            MemoryError: memory ran out; with the text of the original error, whose class another process may
                not have.
        """
        try:
            return self._meters[which].measure(task)
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error) is None:
                raise
            raise MemoryError(str(error)) from None


def setup_of(
    model: Model,
    objective: str,
    short_weight: float,
    sets: Mapping[str, ObjectiveTask],
    num_gpus: float = 0.0,
) -> WorkerSetup:
    """The setup of workers that load the same model.

    Args:
        num_gpus: those that a worker sees; more than one share the layers of the model.

    Raises:
        SettingError: the model was not loaded by name, or is another one now.
    """
    options = model.load_options
    if options is None:
        raise SettingError(
            "Workers load the model by its name, but this one was given as an object: save it, and load it "
            "with load_model."
        )
    weights_sha256 = hash_weights(model.model)
    if weights_sha256 != model.weights_sha256:
        raise SettingError(
            f"Workers load {options['name']} again, but this model was changed after it was loaded: save it, "
            f"and load it with load_model."
        )
    name, device = str(options["name"]), str(options["device"])
    found = {
        **options,
        "name": str(Path(name).resolve()) if Path(name).exists() else name,  # for another working directory
        "device": ALL_GPUS if num_gpus > 1 else "cuda" if device.startswith("cuda") else device,
    }
    return WorkerSetup(
        load_options=found,
        weights_sha256=weights_sha256,
        objective=objective,
        short_weight=short_weight,
        sets={which: replace(task, tokenizer=None) for which, task in sets.items()},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """A task that a worker was given."""

    which: str
    task: DocumentTask
    slot: int
    worker: Worker
    answer: Answer


class WorkerPool:
    """Workers that measure the documents of one search.

    Attributes:
        environment: of the workers, which is the same for all.
    """

    environment: dict[str, Any]

    def __init__(self, start: Callable[[int], Worker], num_workers: int, weights_sha256: str) -> None:
        """Creates a pool; `open` starts the workers.

        Args:
            start: starts the worker of a slot, 0 to `num_workers` - 1, without waiting for it.
            weights_sha256: what the workers' weights must have.
        """
        self._start = start
        self._num_workers = num_workers
        self._weights_sha256 = weights_sha256
        self._workers: dict[int, Worker] = {}
        self._turns = count()
        self._ahead: list[_Asked] = []

    def open(self) -> None:
        """Starts all workers and waits for them.

        Raises:
            EvaluationError: one ends.
            ModelError: one has other weights.
            SettingError: their environments differ.
        """
        try:
            self._workers = {slot: self._start(slot) for slot in range(self._num_workers)}
            loaded = [worker.loaded() for worker in self._workers.values()]
        except WorkerEndedError as error:
            raise EvaluationError(f"A worker ended before it had loaded the model: {error}.") from None
        self.environment = loaded[0].environment
        for one in loaded:
            self._require_same(one)

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self._ahead.clear()

    def measure_all(self, which: str) -> MeasureAll:
        """What measures the documents of a set (`SEARCH` or `VALIDATION`), for an `Objective`."""

        def measure(
            tasks: Iterable[DocumentTask], ahead: Iterable[DocumentTask] = ()
        ) -> Iterator[DocumentMeasure]:
            asked = deque([self._begun(which, task) for task in tasks])
            self._begin_ahead(which, ahead)
            while asked:
                yield self._answer(asked.popleft())

        return measure

    def _begin_ahead(self, which: str, tasks: Iterable[DocumentTask]) -> None:
        """Begins with what comes next, and drops what was begun and does not come next."""
        begun = [self._begun(which, task) for task in islice(tasks, TASKS_AHEAD * self._num_workers)]
        if begun:  # otherwise the tasks in between are of other documents, or renew keys
            self._ahead = begun

    def _begun(self, which: str, task: DocumentTask) -> _Asked:
        """The task as it was begun ahead, or begun now."""
        for asked in self._ahead:
            if (asked.which, asked.task) == (which, task):
                self._ahead.remove(asked)
                return asked
        return self._ask(which, task, self._slot_of(task))

    def _slot_of(self, task: DocumentTask) -> int:
        needs_keys = task.kept is not None or task.keep
        turn = task.document if needs_keys else next(self._turns)
        return turn % self._num_workers

    def _ask(self, which: str, task: DocumentTask, slot: int) -> _Asked:
        if slot not in self._workers:
            others = sorted(self._workers)
            slot = others[slot % len(others)]
        worker = self._workers[slot]
        return _Asked(which=which, task=task, slot=slot, worker=worker, answer=worker.ask(which, task))

    def _answer(self, asked: _Asked) -> DocumentMeasure:
        document, num_ended = asked.task.document, 0
        while True:
            try:
                return asked.answer()
            except WorkerEndedError as error:
                num_ended += 1
                if num_ended == MOST_ENDS:
                    raise EvaluationError(
                        f"{MOST_ENDS} workers ended while they measured document {document} ({error}): check "
                        f"the memory of their machines, or give fewer workers."
                    ) from None
                self._replace(asked, str(error))
            asked = self._ask(asked.which, asked.task, asked.slot)

    def _replace(self, asked: _Asked, reason: str) -> None:
        """Starts a worker instead of one that ended; if that fails too, the others take its documents."""
        if self._workers.get(asked.slot) is not asked.worker:
            return  # other tasks of the same worker came first
        warnings.warn(
            f"Worker {asked.slot} ended while it measured document {asked.task.document} ({reason}): the "
            f"document is measured again.",
            stacklevel=2,
        )
        self._workers.pop(asked.slot).close()
        try:
            worker = self._start(asked.slot)
            self._workers[asked.slot] = worker
            self._require_same(worker.loaded())
        except WorkerEndedError as error:
            self._workers.pop(asked.slot, None)
            if not self._workers:
                raise EvaluationError(f"All workers ended; the last one: {error}.") from None

    def _require_same(self, loaded: LoadedModel) -> None:
        if loaded.weights_sha256 != self._weights_sha256:
            raise ModelError(
                "A worker loaded other weights under the model's name: give a path that has the same files "
                "on every machine."
            )
        found = differences(loaded.environment, self.environment)
        if found:
            raise SettingError(
                f"The workers have different environments, so values may differ in their last bits: "
                f"{'; '.join(found)} in another worker. Use machines and versions that are alike."
            )
