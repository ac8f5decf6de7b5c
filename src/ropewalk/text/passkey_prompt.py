"""The passkey prompt: a number hidden in repeated text, at an exact length and a depth.

It is the one of the papers (Mohtashami and Jaggi, arXiv 2305.16300; LongRoPE, arXiv 2402.13753), its parts on
lines of their own:

    <s> task | filler filler fil | needle | ler filler filler | question  ->  the key
    |<------------------- length - room for the answer ------------------>|<- room ->|

Filler is cut between tokens, so that prompt and room for the answer are `length` tokens exactly.

Keys are split once and for all: `is_training_key` tells which a generated training text may hold, and no
evaluation ever asks for one of those.
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
ONE_IN = 16  # so many keys is for training


@dataclass(frozen=True, kw_only=True)
class PasskeyTrial:
    """One prompt.

    Attributes:
        depth: where the needle stands, 0 (right after the task) to 1 (right before the question).
        ids: the prompt, `length` - `room` tokens.
        room: tokens that the answer may take.
    """

    key: int
    depth: float
    ids: tuple[int, ...]
    room: int


def is_training_key(key: int) -> bool:
    """Whether a key is for training texts only; which are is spread over all keys and all their digits."""
    return hashlib.sha256(f"passkey {key}".encode()).digest()[0] % ONE_IN == 0


def draw_key(rng: random.Random, *, training: bool = False) -> int:
    """A key of five digits, of those for training or of all the others."""
    while True:
        key = rng.randrange(FIRST_KEY, LAST_KEY + 1)
        if is_training_key(key) == training:
            return key


def make_trial(encode: Encoder, length: int, key: int, depth: float) -> PasskeyTrial:
    """The prompt for one key at one depth; with its room for the answer it is `length` tokens.

    Raises:
        SettingError: without any filler it is longer already.
    """
    head, needle, question, answer = _parts(encode, key)
    room = len(answer)
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
    return PasskeyTrial(key=key, depth=depth, ids=ids, room=room)


def num_without_filler(encode: Encoder, key: int) -> int:
    """Tokens of the shortest prompt with its room for the answer."""
    return sum(map(len, _parts(encode, key)))


def _parts(encode: Encoder, key: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Task with what opens a document, needle, question, answer."""
    return (
        [*encode.start, *encode(TASK)],
        encode("\n" + NEEDLE.format(key=key)),
        encode("\n" + QUESTION),
        encode(ANSWER.format(key=key)),
    )
