"""Needles: facts hidden in a real document at several depths, and asked for at its end.

    <s> text text | fact | text ... text | fact | text | question answer question answer
                                                                  ^^^^^^          ^^^^^^  scored

LongRoPE2 (arXiv 2502.20082) searches on the loss of such answers alone: most tokens of a text are predicted
from what stands close before them, and say little about far ones.
"""

import random

import torch

from ropewalk.errors import SettingError
from ropewalk.text.tokens import Encoder, TokenDocument
from ropewalk.text.windows import TokenWindow

FACT = "\nThe number of {name} is {value}.\n"
QUESTION = "\nThe number of {name} is"
ANSWER = " {value}."
NUM_DIGITS = 5
SYLLABLES = ("ba", "de", "fi", "go", "ku", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "zo")


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
        name = "".join(rng.choices(SYLLABLES, k=3))
        value = rng.randrange(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS)
        fact = encode(FACT.format(name=name, value=value))
        question = encode(QUESTION.format(name=name))
        answer = encode(ANSWER.format(value=value))
        room = length - len(fact) - len(question) - len(answer)
        if room < 2:
            raise SettingError(
                f"A needle of {length - room} tokens does not fit into {length} tokens: give a longer target."
            )
        text = document.ids[:room].tolist()
        cut = 1 + round(depth * (room - 1))
        ids = torch.tensor([*text[:cut], *fact, *text[cut:], *question, *answer])
        windows.append(TokenWindow(ids=ids, num_scored=len(answer)))
    return windows
