"""The objectives of a search: each is a list of terms, and a term has windows to read and score.

    perplexity    every token but the first: LongRoPE's (arXiv 2402.13753)
    tail          tokens at positions that the model was never trained on, from L to L'
    needle        answers about facts hidden at several depths: LongRoPE2's (arXiv 2502.20082)

To any of them a weight can add the perplexity of each document's first L tokens, so that a gain at long
lengths does not make short inputs worse.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.plugins import find_named
from ropewalk.search.objective import Term
from ropewalk.text.needles import needle_windows
from ropewalk.text.tokens import DocumentSet, Encoder
from ropewalk.text.windows import TokenWindow, truncate

NEEDLE_DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True, kw_only=True)
class ObjectiveTask:
    """What terms are made from.

    Attributes:
        original_length, target_length: L and L', tokens.
        seed: of what is drawn (names and numbers of needles).
    """

    documents: DocumentSet
    tokenizer: Any
    original_length: int
    target_length: int
    seed: int


ObjectiveMaker = Callable[[ObjectiveTask], Sequence[Term]]


def perplexity(task: ObjectiveTask) -> list[Term]:
    """Every token of every document but the first, at the target length."""
    windows = tuple(tuple(truncate(d, task.target_length)) for d in task.documents.documents)
    return [Term(name="perplexity", weight=1.0, windows=windows)]


def tail(task: ObjectiveTask) -> list[Term]:
    """Only tokens at positions L and beyond."""
    num_scored = task.target_length - task.original_length
    windows = tuple(
        (TokenWindow(ids=d.ids[: task.target_length], num_scored=num_scored),)
        for d in task.documents.documents
    )
    return [Term(name="tail perplexity", weight=1.0, windows=windows)]


def needle(task: ObjectiveTask) -> list[Term]:
    """Only answers about facts hidden in the documents; the depths change from document to document."""
    encode, rng = Encoder(task.tokenizer), random.Random(f"needles-{task.seed}")
    windows = tuple(
        tuple(needle_windows(document, task.target_length, _depths(index), encode, rng))
        for index, document in enumerate(task.documents.documents)
    )
    return [Term(name="needle perplexity", weight=1.0, windows=windows)]


OBJECTIVES: Mapping[str, ObjectiveMaker] = {"perplexity": perplexity, "tail": tail, "needle": needle}


def make_terms(name: str, task: ObjectiveTask, short_weight: float = 0.0) -> list[Term]:
    """The terms of an objective.

    Args:
        name: one of `OBJECTIVES`, or `package.module:Name`: a function from an `ObjectiveTask` to terms.
        short_weight: of the mean nats of each document's first L tokens; the objective's own weight is 1.

    Raises:
        SettingError: there is no such objective, or the weight is below 0.
    """
    terms = list(objective_maker(name)(task))
    if short_weight > 0:
        windows = tuple(tuple(truncate(d, task.original_length)) for d in task.documents.documents)
        terms.append(Term(name="short perplexity", weight=short_weight, windows=windows))
    return terms


def objective_maker(name: str) -> ObjectiveMaker:
    """The function behind an objective's name.

    Raises:
        SettingError: there is no such objective.
    """
    found: ObjectiveMaker = find_named(name, OBJECTIVES, "objective", "objectives")
    if not callable(found):
        raise SettingError(f"The objective {name} is {found!r}, but must be a function from a task to terms.")
    return found


def _depths(index: int) -> tuple[float, ...]:
    """Two depths per document, so that five documents have each depth twice."""
    return tuple(NEEDLE_DEPTHS[(2 * index + k) % len(NEEDLE_DEPTHS)] for k in range(2))
