"""Progress of a run: callbacks, and an estimate of the time left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.evaluate.answers import OnAnswer
from ropewalk.evaluate.records import OnRecord
from ropewalk.recipe.stages import EvaluateStage, FinetuneStage, ReadjustStage, SearchStage, Stage
from ropewalk.search.outcome import SearchProgress

TRAINING_COST = 4.0  # in forward passes: two with recomputed activations, and a backward pass


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Callbacks for the progress of a run; by default they do nothing.

    Attributes:
        on_stage: a stage begins. Gets its number from 0, its title, whether it is complete already, and an
            estimate of the seconds left for it and all after it (None before anything was timed).
        on_trial, on_step, on_answer, on_record: of searches, trainings, answers and evaluations.
        say: gets a message.
    """

    on_stage: Callable[[int, str, bool, float | None], None] = _nothing
    on_trial: Callable[[SearchProgress], None] = _nothing
    on_step: Callable[[Any], None] = _nothing
    on_answer: OnAnswer = _nothing
    on_record: OnRecord = _nothing
    say: Callable[[str], None] = _nothing


class Clock:
    """Estimates the time left from the time that the completed stages took.

    A forward pass over n tokens counts as n (1 + n / c): the cost of attention grows with the length, and
    equals that of all the rest at the length c, about 8 hidden sizes.
    """

    def __init__(self, stages: Sequence[Stage], window: int, hidden_size: int) -> None:
        self._costs = [work(stage, window, 8 * hidden_size) for stage in stages]
        self._done_cost = self._done_seconds = 0.0

    def took(self, index: int, seconds: float) -> None:
        """A stage is complete."""
        self._done_cost += self._costs[index]
        self._done_seconds += seconds

    def left(self, index: int) -> float | None:
        """Estimated seconds from the beginning of a stage to the end; None before anything was timed."""
        if self._done_cost == 0:
            return None
        return sum(self._costs[index:]) * self._done_seconds / self._done_cost


def forward_work(length: int, doubling: float) -> float:
    """The cost of a forward pass over `length` tokens, in passes over one token; see `Clock`."""
    return length * (1 + length / doubling)


def work(stage: Stage, window: int, doubling: float) -> float:
    """The cost of a resolved stage, in forward passes over one token.

    Args:
        window: L, tokens.
        doubling: as in `forward_work`.
    """

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
            count = stage.num_documents or 1
            num_texts = stage.questions(count).num_texts
            return (
                sum(passes(count, length) for length in stage.perplexity)
                + sum(passes(stage.num_trials, length) for length in stage.passkey)
                + sum(passes(num_texts, length) for length in stage.retrieval_lengths(window))
            )
    return 0.0


def _evaluations(stage: SearchStage | ReadjustStage) -> int:
    return stage.settings.num_evaluations
