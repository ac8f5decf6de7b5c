"""WorkerSettings: which processes measure the documents of a search."""

from importlib.util import find_spec
from typing import Self

from pydantic import Field, model_validator

from ropewalk.settings import Settings
from ropewalk.units import MOST


class WorkerSettings(Settings):
    """Where the documents of a search are measured.

    They are no settings of the search: its factors are the same bit for bit with any number of workers that
    have the same number of threads.

    Raises:
        SettingError: a value out of its range, an unknown name, two values that contradict each other, or
            Ray is needed and not installed.
    """

    num_workers: int = Field(
        default=1,
        ge=1,
        le=MOST,
        title="N",
        json_schema_extra={"option": "--workers"},
        description="Processes that measure documents, each with the model in memory; more than 1 need Ray "
        "(`ropewalk[cluster]`).",
    )
    ray_address: str | None = Field(
        default=None,
        min_length=1,
        title="ADDRESS",
        description="The Ray cluster that the workers join: auto, or HOST:PORT; by default they run on this "
        "machine alone.",
    )
    threads_per_worker: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        title="N",
        description="Threads of each worker, which may change the last bits of values; by default, the cores "
        "are divided among the workers.",
    )
    gpus_per_worker: float | None = Field(
        default=None,
        ge=0,
        le=MOST,
        title="N",
        description="GPUs that each worker reserves: 0.5 if two workers use one, 2 to divide the layers of a "
        "model among two (with `--exact`); by default 1 if the device is cuda, otherwise 0.",
    )

    @model_validator(mode="after")
    def _require_ray(self) -> Self:
        for name in ("threads_per_worker", "gpus_per_worker"):
            if getattr(self, name) is not None and not self.uses_ray:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but one worker runs in this process: leave it out, or "
                    f"give more workers or a ray_address"
                )
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and gpus % 1:
            raise ValueError(f"gpus_per_worker is {gpus:g}, but must be a share of one GPU or a whole number")
        if self.uses_ray and find_spec("ray") is None:
            raise ValueError(
                "more than one worker, or a ray_address, needs Ray, which is not installed: install "
                "ropewalk[cluster], or leave both out"
            )
        return self

    @property
    def uses_ray(self) -> bool:
        """Whether workers are other processes; otherwise the search measures in its own process."""
        return self.num_workers > 1 or self.ray_address is not None

    @classmethod
    def of(cls, workers: "int | WorkerSettings") -> "WorkerSettings":
        """The settings, or those with this number of workers."""
        return workers if isinstance(workers, WorkerSettings) else cls.checked({"num_workers": workers})
