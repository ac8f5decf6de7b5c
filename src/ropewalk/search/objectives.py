"""The objectives of a search: what is read of each document, and what is scored.

    facts         every token of the text, and the answers about facts that are hidden in it, in one reading
    perplexity    every token but the first: LongRoPE's (arXiv 2402.13753)
    tail          tokens at positions that the model was never trained on, from L to L'
    needle        answers about facts alone: LongRoPE2's (arXiv 2502.20082)

A weight can add the perplexity of each document's first L tokens to any of them, so that a gain at long
lengths does not make short inputs worse.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from ropewalk.errors import SettingError
from ropewalk.plugins import find_named
from ropewalk.search.objective import Term, TermReadings
from ropewalk.text.facts import FactText, draw_facts, fact_text, redraw
from ropewalk.text.readings import Reading, readings_of
from ropewalk.text.tokens import DocumentSet, Encoder
from ropewalk.text.windows import TokenWindow, truncate

PERPLEXITY, ANSWERS = "perplexity", "answers"
TOKENS_PER_FACT, MOST_FACTS = 256, 8
FEWEST_TOKENS = 256  # a fact with its question takes up to 130 tokens, if a token is a byte
NUM_CACHED = 64


@dataclass(frozen=True, kw_only=True)
class ObjectiveTask:
    """What an objective is made from.

    Attributes:
        original_length, target_length: L and L', tokens.
        seed: of the facts.
        answer_weight: of the mean nats of answers, where the text has the weight 1.
    """

    documents: DocumentSet
    tokenizer: Any
    original_length: int
    target_length: int
    seed: int
    answer_weight: float = 1.0


ObjectiveMaker = Callable[[ObjectiveTask], TermReadings]


def facts(task: ObjectiveTask) -> TermReadings:
    """Every token of the text, and answers about facts in it; below 256 tokens the text alone."""
    if not num_facts(task.target_length):
        return perplexity(task)
    encode = Encoder(task.tokenizer)
    terms = (Term(name=PERPLEXITY, weight=1.0), Term(name=ANSWERS, weight=task.answer_weight))

    def reading(document: int, draw: int) -> Reading:
        found = text_with_facts(task, document, draw, encode)
        scored = {PERPLEXITY: torch.tensor(found.text), ANSWERS: _answers(found)}
        return Reading(ids=torch.tensor(found.ids), scored=scored, fresh=_fresh(found))

    return _drawn(task, terms, reading)


def perplexity(task: ObjectiveTask) -> TermReadings:
    """Every token of every document but the first, at the target length."""
    windows = [truncate(document, task.target_length) for document in task.documents.documents]
    return from_windows(Term(name=PERPLEXITY, weight=1.0), windows)


def tail(task: ObjectiveTask) -> TermReadings:
    """Only tokens at positions L and beyond."""
    num_scored = task.target_length - task.original_length
    windows = [
        [TokenWindow(ids=document.ids[: task.target_length], num_scored=num_scored)]
        for document in task.documents.documents
    ]
    return from_windows(Term(name="tail perplexity", weight=1.0), windows)


def needle(task: ObjectiveTask) -> TermReadings:
    """Only answers about facts in the text."""
    encode = Encoder(task.tokenizer)

    def reading(document: int, draw: int) -> Reading:
        found = text_with_facts(task, document, draw, encode)
        scored = {ANSWERS: _answers(found)}
        return Reading(ids=torch.tensor(found.ids), scored=scored, fresh=_fresh(found))

    return _drawn(task, (Term(name=ANSWERS, weight=1.0),), reading)


OBJECTIVES: Mapping[str, ObjectiveMaker] = {
    "facts": facts,
    "perplexity": perplexity,
    "tail": tail,
    "needle": needle,
}


def make_readings(name: str, task: ObjectiveTask, short_weight: float = 0.0) -> TermReadings:
    """The terms of an objective, and what is read for them.

    Args:
        name: one of `OBJECTIVES`, or `package.module:Name`: a function from an `ObjectiveTask` to
            `TermReadings`.
        short_weight: of the mean nats of each document's first L tokens; the objective's first term has 1.

    Raises:
        SettingError: there is no such objective, it returns something else, or a term scores nothing of a
            document.
    """
    readings = objective_maker(name)(task)
    if not isinstance(readings, TermReadings):
        raise SettingError(
            f"The objective {name} returned {type(readings).__name__}, but must return `TermReadings`."
        )
    _check_scored(name, readings)
    if short_weight <= 0:
        return readings
    windows = [truncate(document, task.original_length) for document in task.documents.documents]
    return _together(readings, from_windows(Term(name="short perplexity", weight=short_weight), windows))


def objective_maker(name: str) -> ObjectiveMaker:
    """The function behind an objective's name.

    Raises:
        SettingError: there is no such objective.
    """
    found: ObjectiveMaker = find_named(name, OBJECTIVES, "objective", "objectives")
    if not callable(found):
        raise SettingError(
            f"The objective {name} is {found!r}, but must be a function from a task to readings."
        )
    return found


def _check_scored(name: str, readings: TermReadings) -> None:
    for document in range(readings.num_documents):
        unscored = [term for term, count in readings.num_scored([document]).items() if count == 0]
        if unscored:
            raise SettingError(
                f"The term {unscored[0]} of the objective {name} scores no token of document {document}, but "
                f"must score at least one of each."
            )


def from_windows(term: Term, windows: Sequence[Sequence[TokenWindow]]) -> TermReadings:
    """One term that scores the windows of each document."""
    readings = [readings_of(of_one, term.name) for of_one in windows]
    return TermReadings(
        terms=(term,), num_documents=len(readings), readings_of=lambda document, draw: readings[document]
    )


def num_facts(length: int) -> int:
    """How many facts a text of this length has: they take about a tenth of its tokens, or fewer."""
    return 0 if length < FEWEST_TOKENS else max(1, min(MOST_FACTS, length // TOKENS_PER_FACT))


def text_with_facts(task: ObjectiveTask, document: int, draw: int, encode: Encoder) -> FactText:
    """A document with facts at depths that spread over it, all of which are asked for, in another order.

    A draw other than 0 has other keys and values at the same positions, so that keys which were kept with one
    draw serve another (`evaluate.kept_keys`).

    Raises:
        SettingError: the facts do not fit into the target length.
    """
    seed = f"facts-{task.seed}-{task.documents.data_sha256}-{document}"
    rng = random.Random(seed)
    count = max(1, num_facts(task.target_length))
    hidden = draw_facts(count, rng)
    depths = [(index + rng.random()) / count for index in range(count)]
    order = rng.sample(range(count), count)
    if draw:
        hidden = redraw(hidden, encode, random.Random(f"{seed}-{draw}"))
    ids = task.documents.documents[document].ids.tolist()
    return fact_text(ids, task.target_length, hidden, depths, order, encode)


def _answers(found: FactText) -> torch.Tensor:
    return torch.tensor([position for answer in found.answers for position in answer])


def _fresh(found: FactText) -> torch.Tensor:
    """Everything but the text: statements, questions and answers."""
    is_text = torch.zeros(len(found.ids), dtype=torch.bool)
    is_text[[0, *found.text]] = True
    return (~is_text).nonzero().squeeze(1)


def _drawn(
    task: ObjectiveTask, terms: tuple[Term, ...], reading: Callable[[int, int], Reading]
) -> TermReadings:
    """One reading per document and draw; the last ones are kept."""
    kept = lru_cache(maxsize=NUM_CACHED)(lambda document, draw: (reading(document, draw),))
    return TermReadings(terms=terms, num_documents=len(task.documents.documents), readings_of=kept)


def _together(first: TermReadings, second: TermReadings) -> TermReadings:
    """The terms of both; each document has the readings of both."""

    def both(document: int, draw: int) -> tuple[Reading, ...]:
        return (*first.readings_of(document, draw), *second.readings_of(document, draw))

    return replace(first, terms=first.terms + second.terms, readings_of=both)
