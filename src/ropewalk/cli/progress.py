"""A search before the user's eyes: best so far, trials done, time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ropewalk.cli.output import clock, say

if TYPE_CHECKING:
    from ropewalk.evaluate.passkey import OnAnswer, PasskeyProgress
    from ropewalk.search.outcome import SearchProgress

SECONDS_BETWEEN_LINES = 15.0  # where stderr is a file or a pipe

OnTrial = Callable[["SearchProgress"], None]


@contextmanager
def search_progress() -> Iterator[OnTrial]:
    """Give a search its `on_trial`: a bar on a terminal, elsewhere a line now and then and one at the end."""
    if sys.stderr.isatty():
        with _bar() as on_trial:
            yield on_trial
    else:
        with _lines() as on_trial:
            yield on_trial


def step_progress() -> Callable[[Any], None]:
    """A training's `on_step`: a line now and then, and one at the end of each stage."""
    say_now_and_then = _now_and_then()

    def on_step(step: Any) -> None:
        say_now_and_then(step_line(step), step.step >= step.num_steps)

    return on_step


def answer_progress() -> "OnAnswer":
    """A passkey measurement's `on_answer`: a line now and then; the record says how it ended."""
    say_now_and_then = _now_and_then()

    def on_answer(progress: "PasskeyProgress") -> None:
        if progress.num_answered < progress.num_trials:
            say_now_and_then(answer_line(progress), False)

    return on_answer


def _now_and_then() -> Callable[[str, bool], None]:
    """Says a line if it is time for one, or if it must be said."""
    last_said = time.monotonic()

    def say_now_and_then(line: str, must: bool) -> None:
        nonlocal last_said
        if must or time.monotonic() - last_said >= SECONDS_BETWEEN_LINES:
            last_said = time.monotonic()
            say(line)

    return say_now_and_then


def answer_line(progress: "PasskeyProgress") -> str:
    """`passkey at 131072 tokens · 12 of 30 asked, 11 found · 41:07 min left`."""
    asked = f"{progress.num_answered} of {progress.num_trials} asked, {progress.num_found} found"
    return f"passkey at {progress.answer.length} tokens · {asked} · {clock(progress.seconds_left)} left"


def step_line(step: Any) -> str:
    """`step 12 of 40 · loss 4.512 · 3:07 min left`."""
    left = (step.num_steps - step.step) * step.seconds / max(1, step.step)
    return f"step {step.step} of {step.num_steps} · loss {step.loss:.4f} · {clock(left)} left"


def progress_line(progress: "SearchProgress") -> str:
    """`best 9.0512 · trial 40 · 14.2 of 27 evaluations · 3:07 min left`.

    When the search has ended, `closed-form schemes: 3 of 9` stands before the time.
    """
    best = "no value yet" if progress.best is None else f"best {progress.best.value:.4f}"
    spent = f"{progress.cost:.1f} of {progress.budget:g} evaluations"
    measured = progress.num_finalists
    total = measured + progress.num_finalists_left
    beside = f" · closed-form schemes: {measured} of {total}" if measured else ""
    left = clock(progress.seconds_left)
    return f"{best} · trial {progress.num_trials} · {spent}{beside} · {left} left"


@contextmanager
def _bar() -> Iterator[OnTrial]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.BarColumn(bar_width=24),
        rich_progress.TextColumn("{task.description}", markup=False),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as drawn:
        task = drawn.add_task("starting", total=None)

        def on_trial(progress: "SearchProgress") -> None:
            drawn.update(
                task, total=progress.budget, completed=progress.cost, description=progress_line(progress)
            )

        yield on_trial


@contextmanager
def _lines() -> Iterator[OnTrial]:
    last_said, unsaid = time.monotonic(), ""

    def on_trial(progress: "SearchProgress") -> None:
        nonlocal last_said, unsaid
        unsaid = progress_line(progress)
        if time.monotonic() - last_said >= SECONDS_BETWEEN_LINES:
            last_said = time.monotonic()
            say(unsaid)
            unsaid = ""

    try:
        yield on_trial
    finally:
        if unsaid:
            say(unsaid)
