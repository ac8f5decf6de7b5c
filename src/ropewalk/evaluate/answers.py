"""Answers of a model to passkey prompts and questions: which are right, their progress, and their share."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from ropewalk.evaluate.intervals import wilson
from ropewalk.evaluate.records import QuestionResult, checked_json


@dataclass(frozen=True)
class _AsJson:
    def as_json(self) -> dict[str, Any]:
        """Returns JSON values that `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Returns the answer that `as_json` was called on.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        answer: Self = checked_json(cls, values)
        return answer


@dataclass(frozen=True, kw_only=True)
class PasskeyAnswer(_AsJson):
    """A model's answer to one prompt.

    Attributes:
        factors: the label of the factors.
        length, key, depth: of the prompt, which they identify.
        text: the answer up to its first complete integer.
    """

    METRIC: ClassVar = "passkey"

    factors: str
    length: int
    key: int
    depth: float
    text: str

    @property
    def is_found(self) -> bool:
        return first_integer(self.text) == str(self.key)

    @property
    def order(self) -> tuple[float, int]:
        """Its place among the answers of a record."""
        return self.depth, self.key

    @property
    def result(self) -> QuestionResult:
        return QuestionResult(depth=self.depth, is_found=self.is_found)


@dataclass(frozen=True, kw_only=True)
class RetrievalAnswer(_AsJson):
    """A model's answer to one question about a fact.

    Attributes:
        factors: the label of the factors.
        length: tokens of the text.
        number: of the question, from 0.
        document: the index of the text's document.
        wording, key, value, depth: of the fact.
        text: the answer, up to the first token that is not one of the true answer, or longer.
    """

    METRIC: ClassVar = "retrieval"

    factors: str
    length: int
    number: int
    document: int
    wording: str
    key: str
    value: str
    depth: float
    text: str

    @property
    def is_found(self) -> bool:
        return begins_with(self.text, self.value)

    @property
    def order(self) -> tuple[float, int]:
        """Its place among the answers of a record."""
        return 0.0, self.number

    @property
    def question(self) -> tuple[object, ...]:
        """Which question it answers, and with which factors."""
        return self.factors, self.length, self.number, self.document, self.wording, self.key, self.value

    @property
    def result(self) -> QuestionResult:
        return QuestionResult(depth=self.depth, is_found=self.is_found, document=self.document)


Answer = TypeVar("Answer", PasskeyAnswer, RetrievalAnswer)
OnAnswer = Callable[["AnswerProgress[Any]"], None]


@dataclass(frozen=True, kw_only=True)
class AnswerProgress(Generic[Answer]):
    """The latest answer, and the progress of its factors at its length.

    Attributes:
        num_answered, num_found, num_trials: answers so far, right ones of these, prompts or questions in
            total.
        seconds_left: an estimate.
    """

    answer: Answer
    num_answered: int
    num_found: int
    num_trials: int
    seconds_left: float


def collect(
    known: Sequence[Answer], new: Iterable[Answer], num_trials: int, on_answer: OnAnswer | None
) -> list[Answer]:
    """Returns the known answers and then the new ones, and reports each new one.

    Args:
        num_trials: how many there will be.
    """
    given = list(known)
    started = time.perf_counter()
    for number, answer in enumerate(new, start=1):
        given.append(answer)
        if on_answer:
            seconds = (time.perf_counter() - started) / number
            progress = AnswerProgress(
                answer=answer,
                num_answered=len(given),
                num_found=sum(other.is_found for other in given),
                num_trials=num_trials,
                seconds_left=seconds * (num_trials - len(given)),
            )
            on_answer(progress)
    return given


def summary(given: Sequence[Answer]) -> dict[str, Any]:
    """Returns the numbers of a record. Its questions do not depend on the order of the answers."""
    results = [answer.result for answer in sorted(given, key=lambda answer: answer.order)]
    num_found = sum(result.is_found for result in results)
    low, high = wilson(num_found, len(results))
    return {
        "value": num_found / len(results),
        "n": len(results),
        "low": low,
        "high": high,
        "found": num_found,
        "by_depth": tuple(_by_depth(results)),
        "by_question": tuple(results),
    }


def _by_depth(results: Sequence[QuestionResult]) -> Iterator[dict[str, float]]:
    for depth in sorted({result.depth for result in results}):
        here = [result.is_found for result in results if result.depth == depth]
        yield {"depth": depth, "n": len(here), "found": sum(here)}


def first_integer(text: str) -> str | None:
    """Returns the digits of the first integer in a text, or None."""
    match = re.search(r"\d+", text)
    return match[0] if match else None


def begins_with(text: str, value: str) -> bool:
    """Returns whether a text begins with a whole value.

    The next character must exist and be no letter, digit or underscore: 52170 is not in ` 521704.`, and not
    in ` 52170`, which may go on.
    """
    rest = text.lstrip().removeprefix(value)
    return text.lstrip().startswith(value) and re.match(r"\W", rest) is not None
