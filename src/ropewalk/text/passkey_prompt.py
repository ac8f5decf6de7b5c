"""The passkey prompt: a number in repeated text, at an exact length and a depth.

The prompt of the papers (Mohtashami and Jaggi, arXiv 2305.16300; LongRoPE, arXiv 2402.13753), with each part
on its own line:

    <s> task | filler filler fil | needle | ler filler filler | question  ->  the key
    |<------------------ length - num_answer_tokens ----------------->|<- num_answer_tokens ->|

Filler is cut between tokens, so that prompt and answer have exactly `length` tokens.

Keys for training and for evaluation are disjoint: see `is_training_key`.
"""

import hashlib
import random
from dataclasses import dataclass

from ropewalk.errors import SettingError
from ropewalk.text.tokens import Encoder

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"
ANSWER = " {key}."

FIRST_KEY, LAST_KEY = 10_000, 99_999
TRAINING_SHARE = 16  # one key in 16 is for training


@dataclass(frozen=True, kw_only=True)
class PasskeyTrial:
    """One prompt.

    Attributes:
        key: the number to find.
        depth: the position of the needle: 0 is after the task, 1 before the question.
        ids: the prompt, `length` - `num_answer_tokens` tokens.
        num_answer_tokens: how many tokens the answer may have.
    """

    key: int
    depth: float
    ids: tuple[int, ...]
    num_answer_tokens: int


def is_training_key(key: int) -> bool:
    """Returns whether a key is for training texts only. A hash decides, independent of the key's digits."""
    return hashlib.sha256(f"passkey {key}".encode()).digest()[0] % TRAINING_SHARE == 0


def draw_key(rng: random.Random, *, training: bool = False) -> int:
    """Returns a random key of five digits, for training or for evaluation."""
    while True:
        key = rng.randrange(FIRST_KEY, LAST_KEY + 1)
        if is_training_key(key) == training:
            return key


def make_trial(encode: Encoder, length: int, key: int, depth: float) -> PasskeyTrial:
    """Returns the prompt for one key at one depth.

    Args:
        encode: the tokenizer.
        length: tokens of prompt and answer together.
        depth: see `PasskeyTrial`.

    Raises:
        SettingError: the prompt without filler is longer than `length`.
    """
    head, needle, question, answer = _parts(encode, key)
    num_answer_tokens = len(answer)
    num_filler = length - num_without_filler(encode, key)
    if num_filler < 0:
        raise SettingError(
            f"A passkey prompt of {length} tokens is too short: this tokenizer needs {length - num_filler} "
            f"for the prompt without filler."
        )
    sentence = encode("\n" + FILLER)
    filler = (sentence * (num_filler // len(sentence) + 1))[:num_filler]
    before = round(depth * num_filler)
    ids = (*head, *filler[:before], *needle, *filler[before:], *question)
    return PasskeyTrial(key=key, depth=depth, ids=ids, num_answer_tokens=num_answer_tokens)


def num_without_filler(encode: Encoder, key: int) -> int:
    """Returns the tokens of the shortest prompt with its answer."""
    return sum(map(len, _parts(encode, key)))


def _parts(encode: Encoder, key: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """The ids of the document's start with the task, of the needle, of the question, and of the answer."""
    return (
        [*encode.start, *encode(TASK)],
        encode("\n" + NEEDLE.format(key=key)),
        encode("\n" + QUESTION),
        encode(ANSWER.format(key=key)),
    )
