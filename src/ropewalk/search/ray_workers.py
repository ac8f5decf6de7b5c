"""Workers in processes of Ray: on this machine, or on the machines of a cluster.

Ray starts the processes, reserves cores and GPUs for them, and carries tasks and measures. It retries nothing
(`max_restarts` and `max_task_retries` are 0): the pool gives tasks again, so that there is one rule for it.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import torch

from ropewalk.errors import SettingError
from ropewalk.models.load_errors import first_statement
from ropewalk.models.model import Model
from ropewalk.search.meter import DocumentTask
from ropewalk.search.objectives import ObjectiveTask
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.search.workers import (
    Answer,
    DocumentWorker,
    LoadedModel,
    Worker,
    WorkerEndedError,
    WorkerPool,
    WorkerSetup,
    setup_of,
)

OBJECT_STORE_BYTES = 100 * 2**20  # tasks and measures are small; the least that Ray takes is 75 MiB
RESERVE_S = 60.0  # after which cores and GPUs that are in use count as missing
# Ray reports no usage, leaves the GPUs visible to a process that reserves none, gives workers the priority of
# this process (its default is niceness 15: on a busy machine they hardly run), and prints no traceback of an
# error that is not fetched because another worker raised the same.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}


@contextmanager
def open_workers(
    settings: WorkerSettings,
    model: Model,
    *,
    objective: str,
    short_weight: float,
    sets: Mapping[str, ObjectiveTask],
) -> Iterator[WorkerPool | None]:
    """Workers for the length of a `with` block; None if documents are measured in this process.

    Args:
        model: what the workers load too.
        objective, short_weight: as for `make_readings`.
        sets: the documents of the search and of the validation, by name.

    Raises:
        SettingError: Ray is not reachable or has too few cores or GPUs, the model was not loaded by name, or
            workers have different environments.
        ModelError: a worker can't load the model, or loads other weights.
        EvaluationError: a worker ends while it starts.
    """
    if not settings.uses_ray:
        yield None
        return
    num_gpus = settings.gpus_per_worker
    if num_gpus is None:
        num_gpus = float(model.model.device.type == "cuda")
    setup = setup_of(model, objective, short_weight, sets, num_gpus)
    with _connected(settings) as ray:
        num_threads = settings.threads_per_worker or _num_threads(ray.nodes(), settings.num_workers, num_gpus)
        setup = replace(setup, num_threads=num_threads)
        with _reserved(ray, settings.num_workers, {"CPU": num_threads, "GPU": num_gpus}) as start:
            pool = WorkerPool(partial(start, setup), settings.num_workers, setup.weights_sha256)
            try:
                pool.open()
                yield pool
            finally:
                pool.close()


@contextmanager
def _connected(settings: WorkerSettings) -> Iterator[Any]:
    """The module `ray`, connected; a connection that the caller has is used and left open."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray = import_module("ray")
    if ray.is_initialized():
        yield ray
        return
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, settings)
        ray._private.worker._worker_logs_enabled = False  # it would print on stdout that a process ended
        yield ray
    finally:
        ray.shutdown()
        ray._private.worker._worker_logs_enabled = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has one of its own


def _connect(ray: Any, settings: WorkerSettings) -> None:
    place: dict[str, Any] = {"address": settings.ray_address}
    is_local = settings.ray_address in (None, "local")  # Ray's name for a start on this machine
    if is_local:
        least = settings.num_workers * (settings.threads_per_worker or 1)
        place = {
            "address": "local",
            "num_cpus": max(least, torch.get_num_threads()),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**place, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AssertionError, ImportError, ray.exceptions.RayError) as error:
        where = "on this machine" if is_local else f"at {settings.ray_address}"
        raise SettingError(
            f"Ray can't be reached {where} ({first_statement(error).rstrip('.')}): check the address and the "
            f"token, or leave out the address to start workers on this machine."
        ) from None


def _num_threads(nodes: Sequence[Mapping[str, Any]], num_workers: int, num_gpus: float) -> int:
    """The most threads with which all workers have cores of their own; at least 1."""
    places = [
        (int(found.get("CPU", 0)), found.get("GPU", 0) // num_gpus if num_gpus else num_workers)
        for found in (node["Resources"] for node in nodes if node["Alive"])
    ]
    most = max((cores for cores, _ in places), default=0)

    def fits(num_threads: int) -> bool:
        return sum(min(cores // num_threads, by_gpus) for cores, by_gpus in places) >= num_workers

    return max(filter(fits, range(1, most + 1)), default=1)


@contextmanager
def _reserved(
    ray: Any, num_workers: int, resources: Mapping[str, float]
) -> Iterator[Callable[[WorkerSetup, int], Worker]]:
    """Reserves what all workers need, and yields a function that starts the worker of a slot there."""
    bundle = {name: amount for name, amount in resources.items() if amount}
    group = import_module("ray.util").placement_group([bundle] * num_workers, strategy="PACK")
    schedule = import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
    actor = ray.remote(DocumentWorker)

    def start(setup: WorkerSetup, slot: int) -> Worker:
        if not group.wait(RESERVE_S):
            raise WorkerEndedError("no machine has the cores and GPUs for another one")
        started = actor.options(
            num_cpus=resources["CPU"], num_gpus=resources["GPU"], max_restarts=0, max_task_retries=0,
            scheduling_strategy=schedule(group, placement_group_bundle_index=slot),
        ).remote(setup)  # fmt: skip
        return RayWorker(ray, started)

    try:
        if not group.wait(RESERVE_S):
            needed = " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
            raise SettingError(
                f"{num_workers} workers need {needed} each, which Ray does not have free: give fewer "
                f"workers, threads or GPUs."
            )
        yield start
    finally:
        import_module("ray.util").remove_placement_group(group)


class RayWorker:
    """A `Worker` that is an actor of Ray."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._loading = actor.load.remote()

    def loaded(self) -> LoadedModel:
        found: LoadedModel = self._result(self._loading)
        return found

    def ask(self, which: str, task: DocumentTask) -> Answer:
        return partial(self._result, self._actor.measure.remote(which, task))

    def close(self) -> None:
        self._ray.kill(self._actor)

    def _result(self, reference: Any) -> Any:
        """Waits for a result; what the worker's code raises is raised here."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from error
            raise
        except errors.RayError as error:
            raise WorkerEndedError(first_statement(error).rstrip(".")) from None
