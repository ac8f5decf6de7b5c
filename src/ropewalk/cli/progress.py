"""Progress of searches, trainings and answers on stderr: a bar on a terminal, lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ropewalk.cli.output import clock, one_line, say

if TYPE_CHECKING:
    from ropewalk.evaluate.answers import AnswerProgress
    from ropewalk.finetune.step_reports import StepProgress
    from ropewalk.search.outcome import SearchProgress

SECONDS_BETWEEN_LINES = 15.0  # if stderr is a file or a pipe


class Callbacks:
    """The callbacks of searches, trainings, passkey and retrieval measurements, which share one display."""

    def __init__(self, display: "_Display") -> None:
        self._display = display

    def on_trial(self, progress: "SearchProgress") -> None:
        """Shows the progress of a search."""
        self._display.show(search_line(progress), progress.cost, progress.budget)

    def on_step(self, progress: "StepProgress") -> None:
        """Shows the progress of a training; its last step is always shown."""
        self._display.show(step_line(progress), progress.step, progress.num_steps)
        if progress.step >= progress.num_steps:
            self._display.finish()

    def on_answer(self, progress: "AnswerProgress[Any]") -> None:
        """Shows the progress of answers until the last one, which its record reports."""
        if progress.num_answered < progress.num_trials:
            self._display.show(answer_line(progress), progress.num_answered, progress.num_trials)
        else:
            self._display.clear()


@contextmanager
def show_progress() -> Iterator[Callbacks]:
    """Yields the callbacks of a display: a bar on a terminal, else a line every 15 seconds and a last one."""
    is_live = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    with _bar() if is_live else _lines() as display:
        yield Callbacks(display)


def search_line(progress: "SearchProgress") -> str:
    """Returns `best 9.0512 · trial 40 · 14.2 of 27 evaluations · 3:07 min left`.

    At the end of a search, `comparison with closed-form schemes: 3 of 12` comes before the time.
    """
    best = "no value yet" if progress.best is None else f"best {progress.best.value:.4f}"
    spent = f"{progress.cost:.1f} of {progress.budget:g} evaluations"
    measured = progress.num_finalists
    total = measured + progress.num_finalists_left
    schemes = f" · comparison with closed-form schemes: {measured} of {total}" if measured else ""
    left = clock(progress.seconds_left)
    return f"{best} · trial {progress.num_trials} · {spent}{schemes} · {left} left"


def step_line(progress: "StepProgress") -> str:
    """Returns `step 12 of 40 · loss 4.5120 · 3:07 min left`."""
    left = (progress.num_steps - progress.step) * progress.seconds / max(1, progress.step)
    return f"step {progress.step} of {progress.num_steps} · loss {progress.loss:.4f} · {clock(left)} left"


def answer_line(progress: "AnswerProgress[Any]") -> str:
    """Returns `131072 tokens · 12 of 30 answered, 11 found · 41:07 min left`."""
    answered = f"{progress.num_answered} of {progress.num_trials} answered, {progress.num_found} found"
    return f"{progress.answer.length} tokens · {answered} · {clock(progress.seconds_left)} left"


class _Display(Protocol):
    def show(self, line: str, done: float, total: float) -> None:
        """Shows a line, and `done` of `total`."""

    def finish(self) -> None:
        """Ends the current work; its last line is shown."""

    def clear(self) -> None:
        """Ends the current work; its last line is not shown."""


@contextmanager
def _bar() -> Iterator[_Display]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.BarColumn(bar_width=24),
        rich_progress.TextColumn("{task.description}", markup=False),
    )
    # rich prints the lines of `say` above the bar; stdout, which has the result, stays as it is.
    with rich_progress.Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as drawn:
        task = drawn.add_task("", total=None, visible=False)

        class Bar:
            def show(self, line: str, done: float, total: float) -> None:
                drawn.update(
                    task, total=total, completed=done, description=one_line(line), visible=True, refresh=True
                )

            def finish(self) -> None:
                drawn.update(task, visible=False)

            clear = finish

        yield Bar()


class _Lines:
    def __init__(self) -> None:
        self._last_time, self._pending = time.monotonic(), ""

    def show(self, line: str, done: float, total: float) -> None:
        self._pending = line
        if time.monotonic() - self._last_time >= SECONDS_BETWEEN_LINES:
            self.finish()

    def finish(self) -> None:
        if self._pending:
            self._last_time = time.monotonic()
            say(self._pending)
        self._pending = ""

    def clear(self) -> None:
        self._pending = ""


@contextmanager
def _lines() -> Iterator[_Display]:
    lines = _Lines()
    try:
        yield lines
    finally:
        lines.finish()
