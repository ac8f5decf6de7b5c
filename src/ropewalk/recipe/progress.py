"""What a run tells while it goes on, and how long it may still take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.evaluate.passkey import OnAnswer
from ropewalk.evaluate.records import OnRecord
from ropewalk.recipe.stages import EvaluateStage, FinetuneStage, ReadjustStage, SearchStage, Stage
from ropewalk.search.loop import Progress
from ropewalk.search.settings import SearchSettings

TRAINING_COST = 4.0  # of a forward pass: forwards twice, with activations computed again, and backwards


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Called as things happen; each does nothing unless it is given.

    Attributes:
        on_stage: a stage begins: its number from 0, its title, whether the folder holds it already, and a
            guess of the seconds that are left for it and all after it (None: nothing was timed yet).
        on_trial, on_step, on_answer, on_record: of searches, trainings, passkeys and evaluations.
        say: a sentence.
    """

    on_stage: Callable[[int, str, bool, float | None], None] = _nothing
    on_trial: Callable[[Progress], None] = _nothing
    on_step: Callable[[Any], None] = _nothing
    on_answer: OnAnswer = _nothing
    on_record: OnRecord = _nothing
    say: Callable[[str], None] = _nothing


class Clock:
    """How long what is left may take, from how long what was done took; a guess.

    A forward pass over n tokens is counted as n (1 + n / c): attention grows with the length, and is as
    dear as all the rest where c, about 8 hidden sizes, is reached.
    """

    def __init__(self, stages: Sequence[Stage], hidden_size: int) -> None:
        self._costs = [work(stage, 8 * hidden_size) for stage in stages]
        self._done_cost = self._done_seconds = 0.0

    def took(self, index: int, seconds: float) -> None:
        """A stage is done."""
        self._done_cost += self._costs[index]
        self._done_seconds += seconds

    def left(self, index: int) -> float | None:
        """Seconds from the beginning of a stage to the end of the run; None before anything was timed."""
        if self._done_cost == 0:
            return None
        return sum(self._costs[index:]) * self._done_seconds / self._done_cost


def forward_work(length: int, doubling: float) -> float:
    """A forward pass over `length` tokens, in those over one token without context; see `Clock`."""
    return length * (1 + length / doubling)


def work(stage: Stage, doubling: float) -> float:
    """What a resolved stage costs, in forward passes over one token without context."""

    def passes(count: float, length: Any) -> float:
        return count * forward_work(int(length), doubling)

    match stage:
        case SearchStage():
            return passes(_evaluations(stage) * (stage.num_documents or 1), stage.length)
        case ReadjustStage():
            count = _evaluations(stage) * (stage.num_documents or 1)
            return sum(passes(count, length) for length in stage.lengths)
        case FinetuneStage():
            segments = stage.num_steps * int((stage.model_extra or {}).get("batch_size", 1))
            return TRAINING_COST * passes(segments, stage.length)
        case EvaluateStage():
            perplexities = sum(passes(stage.num_documents or 1, length) for length in stage.perplexity)
            return perplexities + sum(passes(stage.num_trials, length) for length in stage.passkey)
    return 0.0


def _evaluations(stage: SearchStage | ReadjustStage) -> int:
    return SearchSettings.choose(**stage.said()).num_evaluations
