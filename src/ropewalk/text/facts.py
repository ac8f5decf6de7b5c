"""Facts hidden in a text at several depths, with questions about some of them at its end.

    <s> text text | fact | text ... text | fact | text | question answer question answer
                                                                  ^^^^^^          ^^^^^^  scored

Most tokens of a text depend on the tokens shortly before them, so that the loss on a text says little about
whether a model still finds distant facts. LongRoPE2 (arXiv 2502.20082) searches on the loss of such answers
alone. Here the text and the answers of one reading are scored side by side.

Keys are names and identifiers; values are numbers, words and hexadecimal numbers; `text.wordings` has the
sentences. Facts that no question asks for are distractors.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import eq
from typing import Literal

from ropewalk.errors import SettingError
from ropewalk.text.wordings import NAMES, SURNAMES, WORDINGS, WORDS, Wording

Encode = Callable[[str], list[int]]  # text to token ids, without special tokens
KeyKind = Literal["name", "identifier"]
ValueKind = Literal["number", "word", "hexadecimal"]
KEY_KINDS: tuple[KeyKind, ...] = ("name", "identifier")
VALUE_KINDS: tuple[ValueKind, ...] = ("number", "word", "hexadecimal")
FEWEST_DIGITS, MOST_DIGITS = 3, 7
NUM_REDRAWS = 500
OTHER_VALUE = "?"  # shares no token with any value


@dataclass(frozen=True, kw_only=True)
class Fact:
    """That a key has a value, in a wording.

    Attributes:
        key_kind, value_kind: what `redraw` draws instead of `key` and `value`.
    """

    wording: Wording
    key: str
    value: str
    key_kind: KeyKind = "name"
    value_kind: ValueKind = "number"

    @property
    def statement(self) -> str:
        """On a line of its own."""
        return "\n" + self.wording.statement.format(key=self.key, value=self.value) + "\n"

    @property
    def question(self) -> str:
        """On a new line; the answer follows."""
        return "\n" + self.wording.question.format(key=self.key)

    @property
    def answer(self) -> str:
        return f" {self.value}{self.wording.end}"


def draw_key(kind: KeyKind, rng: random.Random) -> str:
    """Returns a random key: `Nina Falk`, or `copper_river`."""
    if kind == "name":
        return f"{rng.choice(NAMES)} {rng.choice(SURNAMES)}"
    return f"{rng.choice(WORDS)}_{rng.choice(WORDS)}"


def draw_value(kind: ValueKind, rng: random.Random) -> str:
    """Returns a random value: `52170`, `lantern`, or `b3a91c`."""
    if kind == "number":
        num_digits = rng.randint(FEWEST_DIGITS, MOST_DIGITS)
        return str(rng.randrange(10 ** (num_digits - 1), 10**num_digits))
    if kind == "word":
        return rng.choice(WORDS)
    return rng.choice("abcdef") + f"{rng.randrange(16**5):05x}"


def draw_facts(
    count: int,
    rng: random.Random,
    *,
    wordings: Sequence[Wording] = WORDINGS,
    key_kinds: Sequence[KeyKind] = KEY_KINDS,
    value_kinds: Sequence[ValueKind] = VALUE_KINDS,
) -> list[Fact]:
    """Returns facts whose keys and values all differ; wordings and kinds are drawn for each."""
    facts: list[Fact] = []
    while len(facts) < count:
        fact = _draw(rng.choice(wordings), rng.choice(key_kinds), rng.choice(value_kinds), rng)
        if _differs(fact, facts):
            facts.append(fact)
    return facts


def redraw(facts: Sequence[Fact], encode: Encode, rng: random.Random) -> list[Fact]:
    """Returns facts with other keys and values, whose texts have the same numbers of tokens.

    So a text with these facts has every token of the document, and every answer, at the same position. A fact
    for which no such key and value are found soon stays as it is.
    """
    others: list[Fact] = []
    for fact in facts:
        sizes = _sizes(fact, encode)
        for _ in range(NUM_REDRAWS):
            other = _draw(fact.wording, fact.key_kind, fact.value_kind, rng)
            if _differs(other, others) and _differs(other, facts) and _sizes(other, encode) == sizes:
                others.append(other)
                break
        else:
            others.append(fact)
    return others


def _draw(wording: Wording, key_kind: KeyKind, value_kind: ValueKind, rng: random.Random) -> Fact:
    key, value = draw_key(key_kind, rng), draw_value(value_kind, rng)
    return Fact(wording=wording, key=key, value=value, key_kind=key_kind, value_kind=value_kind)


def _differs(fact: Fact, others: Sequence[Fact]) -> bool:
    """Whether no other fact has its key or its value."""
    return all(fact.key != other.key and fact.value != other.value for other in others)


def _sizes(fact: Fact, encode: Encode) -> tuple[int, ...]:
    """The tokens of statement, question and answer."""
    return tuple(len(encode(part)) for part in (fact.statement, fact.question, fact.answer))


@dataclass(frozen=True, kw_only=True)
class FactText:
    """The tokens of a text with facts and questions.

    Attributes:
        ids: all tokens.
        text: positions of the tokens of the text itself, without the first token.
        values: for each fact, the positions of its value where it is stated.
        answers: for each question, the positions of its answer.
        asked: for each question, its fact and the depth of its statement.
    """

    ids: tuple[int, ...]
    text: tuple[int, ...]
    values: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    asked: tuple[tuple[Fact, float], ...]


def hide(text: list[int], facts: Sequence[list[int]], depths: Sequence[float]) -> Iterator[list[int]]:
    """Yields parts of the text and facts in turn: text, fact, text, fact, text.

    Args:
        depths: the position of each fact, ascending: 0 is after the first token, 1 at the end.
    """
    done = 0
    for fact, depth in zip(facts, depths, strict=True):
        cut = 1 + round(depth * (len(text) - 1))
        yield text[done:cut]
        yield fact
        done = cut
    yield text[done:]


def fact_text(
    document: Sequence[int],
    length: int,
    facts: Sequence[Fact],
    depths: Sequence[float],
    questions: Sequence[int],
    encode: Encode,
) -> FactText:
    """Returns a text of exactly `length` tokens: facts replace as many tokens at the document's end.

    Args:
        document: its token ids, at least `length`.
        depths: the position of each fact, ascending: 0 is after the first token, 1 before the questions.
        questions: which facts are asked for, in this order.

    Raises:
        SettingError: the facts do not fit into `length` tokens.
    """
    statements = [encode(fact.statement) for fact in facts]
    tail = [(encode(facts[index].question), encode(facts[index].answer)) for index in questions]
    num_added = sum(map(len, statements)) + sum(len(question) + len(answer) for question, answer in tail)
    num_kept = length - num_added
    if num_kept < 2:
        raise SettingError(
            f"{len(facts)} facts and {len(questions)} questions need {num_added} tokens, but the text has "
            f"{length}: give a longer length, fewer facts, or, for a search, another objective."
        )
    ids: list[int] = []
    text: list[int] = []
    values = []
    for index, part in enumerate(hide(list(document[:num_kept]), statements, depths)):
        if index % 2 == 0:
            text += range(len(ids), len(ids) + len(part))
        else:
            values.append(tuple(len(ids) + at for at in _value_positions(facts[index // 2], part, encode)))
        ids += part
    answers = []
    for question, answer in tail:
        ids += question
        answers.append(tuple(range(len(ids), len(ids) + len(answer))))
        ids += answer
    return FactText(
        ids=tuple(ids),
        text=tuple(text[1:]),
        values=tuple(values),
        answers=tuple(answers),
        asked=tuple((facts[index], depths[index]) for index in questions),
    )


def _value_positions(fact: Fact, statement: list[int], encode: Encode) -> range:
    """Which tokens of a statement depend on the value: those that differ under another value."""
    other = encode(replace(fact, value=OTHER_VALUE).statement)
    begin = _num_equal(statement, other)
    return range(begin, len(statement) - _num_equal(statement[begin:][::-1], other[begin:][::-1]))


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens are equal at the beginning of both."""
    return sum(1 for _ in takewhile(bool, map(eq, first, second)))
