"""Needles: facts inserted in a document at several depths, with questions about them at its end.

    <s> text text | fact | text ... text | fact | text | question answer question answer
                                                                  ^^^^^^          ^^^^^^  scored

LongRoPE2 (arXiv 2502.20082) searches on the loss of such answers alone, because most tokens of a
text depend on the tokens shortly before them, and say little about distant ones.
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
    """A fact with its question and answer, as token ids."""

    fact: list[int]
    question: list[int]
    answer: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.fact) + len(self.question) + len(self.answer)


def make_needle(name: str, value: int, encode: Encoder) -> Needle:
    """Returns the needle whose fact is that the number of `name` is `value`."""
    return Needle(
        fact=encode(FACT.format(name=name, value=value)),
        question=encode(QUESTION.format(name=name)),
        answer=encode(ANSWER.format(value=value)),
    )


def draw_name(rng: random.Random) -> str:
    """Returns a name of three random syllables."""
    return "".join(rng.choices(SYLLABLES, k=3))


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


def needle_windows(
    document: TokenDocument, length: int, depths: tuple[float, ...], encode: Encoder, rng: random.Random
) -> list[TokenWindow]:
    """Returns a window per depth: the document's first tokens with one fact, then its question and answer.

    Only the answer's tokens are scored. A window has exactly `length` tokens: the needle replaces as many
    tokens at the end of the document.

    Args:
        length: tokens per window.
        depths: the position of the fact: 0 is after the first token, 1 before the question.
        encode: the tokenizer.
        rng: draws the names and values.

    Raises:
        SettingError: the needle does not fit into `length` tokens.
    """
    windows = []
    for depth in depths:
        name = draw_name(rng)
        value = rng.randrange(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS)
        needle = make_needle(name, value, encode)
        num_kept = length - needle.num_tokens
        if num_kept < 2:
            raise SettingError(
                f"A needle of {needle.num_tokens} tokens does not fit into {length} tokens: give a longer "
                f"target."
            )
        parts = hide(document.ids[:num_kept].tolist(), [needle.fact], [depth])
        ids = torch.tensor([*(i for part in parts for i in part), *needle.question, *needle.answer])
        windows.append(TokenWindow(ids=ids, num_scored=len(needle.answer)))
    return windows
