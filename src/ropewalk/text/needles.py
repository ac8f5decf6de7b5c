"""Needles: facts hidden in a real document at several depths, and asked for at its end.

    <s> text text | fact | text ... text | fact | text | question answer question answer
                                                                  ^^^^^^          ^^^^^^  scored

LongRoPE2 (arXiv 2502.20082) searches on the loss of such answers alone: most tokens of a text are predicted
from what stands close before them, and say little about far ones.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ropewalk.errors import SettingError
from ropewalk.text.tokens import Encoder, TokenDocument
from ropewalk.text.windows import TokenWindow

FACT = "\nThe number of {name} is {value}.\n"
QUESTION = "\nThe number of {name} is"
ANSWER = " {value}."
NUM_DIGITS = 5
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A fact and what asks for it, as token ids."""

    fact: list[int]
    question: list[int]
    answer: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.fact) + len(self.question) + len(self.answer)


def make_needle(name: str, value: int, encode: Encoder) -> Needle:
    """The needle that says that the number of `name` is `value`."""
    return Needle(
        fact=encode(FACT.format(name=name, value=value)),
        question=encode(QUESTION.format(name=name)),
        answer=encode(ANSWER.format(value=value)),
    )


def draw_name(rng: random.Random) -> str:
    """Three syllables."""
    return "".join(rng.choices(SYLLABLES, k=3))


def hide(text: list[int], facts: Sequence[list[int]], depths: Sequence[float]) -> Iterator[list[int]]:
    """Stretches of text and facts in turn: text, fact, text, fact, text.

    Args:
        depths: where each fact stands, ascending, 0 (after the first token) to 1 (at the end).
    """
    done = 0
    for fact, depth in zip(facts, depths, strict=True):
        cut = 1 + round(depth * (len(text) - 1))
        yield text[done:cut]
        yield fact
        done = cut
    yield text[done:]


def needle_windows(
    document: TokenDocument, length: int, depths: tuple[float, ...], encode: Encoder, rng: random.Random
) -> list[TokenWindow]:
    """For each depth the document's first tokens with one fact in them, and its question and answer at the
    end.

    Only the answer's tokens are scored. A window is `length` tokens exactly; the document gives up as many of
    its last tokens as the fact and the question take.

    Args:
        depths: where the fact stands, 0 (after the first token) to 1 (before the question).

    Raises:
        SettingError: fact and question do not fit.
    """
    windows = []
    for depth in depths:
        name = draw_name(rng)
        value = rng.randrange(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS)
        needle = make_needle(name, value, encode)
        room = length - needle.num_tokens
        if room < 2:
            raise SettingError(
                f"A needle of {needle.num_tokens} tokens does not fit into {length} tokens: give a longer "
                f"target."
            )
        parts = hide(document.ids[:room].tolist(), [needle.fact], [depth])
        ids = torch.tensor([*(i for part in parts for i in part), *needle.question, *needle.answer])
        windows.append(TokenWindow(ids=ids, num_scored=len(needle.answer)))
    return windows
