"""The log of a stage, and the report of each step."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainerCallback

from ropewalk.errors import FinetuneError
from ropewalk.finetune.settings import FinetuneSettings


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """The argument of `on_step`.

    Attributes:
        loss: mean nats per counted token of the step, before the update.
        num_tokens: tokens of all steps so far, over all processes.
        seconds: seconds of all steps so far.
    """

    step: int
    num_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    num_tokens: int
    seconds: float


@dataclass(kw_only=True)
class TrainingLog:
    """The steps of a stage so far, over all its starts; part of every checkpoint.

    Attributes:
        losses: the loss of each step.
        seconds: seconds of steps and checks, without steps after the last checkpoint of a killed process.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


class StepReports(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Appends each step to the log, reports it, and stops at a loss that is not finite.

    Args:
        settings: the settings of the stage.
        log: the log of the stage so far.
        on_step: called after each step.
    """

    def __init__(
        self, settings: FinetuneSettings, log: TrainingLog, on_step: Callable[[StepProgress], None] | None
    ) -> None:
        self._settings, self._log, self._on_step = settings, log, on_step
        self._before, self._started = 0.0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._before, self._started = self._log.seconds, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The stage is one epoch; Trainer would count it from the last start."""
        state.epoch = state.global_step / self._settings.num_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), logs.get("grad_norm")
        if not math.isfinite(loss):
            raise FinetuneError(
                f"The loss is {loss} at step {state.global_step}: lower the learning rate, or use another "
                f"precision."
            )
        self._log.losses.append(loss)
        self._log.seconds = self._before + time.monotonic() - self._started
        if self._on_step is None:
            return
        self._on_step(
            StepProgress(
                step=state.global_step,
                num_steps=self._settings.num_steps,
                loss=loss,
                learning_rate=float(logs["learning_rate"]),
                gradient_norm=None if norm is None else float(norm),
                num_tokens=state.global_step * self._settings.batch_size * self._settings.length,
                seconds=self._log.seconds,
            )
        )
