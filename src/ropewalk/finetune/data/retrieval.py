"""Generated texts whose ends can only be known from far before: passkeys, and needles in real text.

Both kinds take turns. One in two is as long as a segment; the others' lengths are spread evenly on a
logarithmic scale between the shortest that can be and that. Depths are spread evenly from end to end.

What a token weighs in the loss decides whether retrieval is learnt at all (docs/what-did-not-work.md): the
digits of an answer weigh much, all around them little, and a number that is told for the first time nothing,
since nobody can know it.

    passkey   task filler The pass key is 12345. Remember it. 12345 is the pass key. filler question 12345.
    weighs                                0                   8                                      8

An answer's weight grows with the length of its text, so that a text of any length teaches retrieval as much
for each of its tokens as one of 256 does, where the bundled model learnt it with these weights.
"""

import math
import random
from collections.abc import Sequence
from typing import Any, Self

import torch

from ropewalk.errors import SettingError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.sources import BETWEEN_JOINED, SourceReader
from ropewalk.text.needles import draw_name, hide, make_needle
from ropewalk.text.passkey_prompt import ANSWER, FIRST_KEY, draw_key, make_trial, num_without_filler
from ropewalk.text.tokens import Encoder

RETRIEVAL = "retrieval"
FEWEST_NEEDLES, MOST_NEEDLES = 2, 5
WEIGHED_LENGTH = 256  # tokens of the text in which an answer weighs `answer_weight`
GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, are spread evenly however many there are

Weighed = tuple[list[int], list[float]]


class RetrievalMaker:
    """Generated documents without end, from a place that can be kept.

    Args:
        room: tokens of the longest document, without BOS and EOS.
        answer_weight, filler_weight: of an answer's digits in a text of 256 tokens, and of what is not asked.
        readers: text to hide needles in, with places of their own; without any, passkeys only.

    Raises:
        SettingError: `room` is too short for a prompt.
    """

    def __init__(
        self,
        encode: Encoder,
        room: int,
        *,
        seed: int,
        answer_weight: float,
        filler_weight: float,
        readers: Sequence[SourceReader] = (),
    ) -> None:
        self._encode, self._room, self._seed = encode, room, seed
        self._answer_weight, self._filler_weight = answer_weight, filler_weight
        self._readers = {reader.settings.name: reader for reader in readers}
        self._index = 0
        self._digits = _DigitTokens(encode)
        self._between = encode(BETWEEN_JOINED)
        needed = self._shortest_passkey(FIRST_KEY)
        if self._readers:
            needed = max(needed, 2 * make_needle("bobobo", FIRST_KEY, encode).num_tokens)
        if room < needed:
            raise SettingError(
                f"Generated retrieval takes {needed} tokens at least with this tokenizer, but the stage has "
                f"{room} between BOS and EOS: make it longer, or set retrieval_share to 0."
            )

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TrainingDocument:
        number, rng = self._index, random.Random(f"retrieval-{self._seed}-{self._index}")
        self._index += 1
        if not self._readers:
            return self._passkey(number, rng)
        turn, of_needles = divmod(number, 2)
        return self._needles(turn, rng) if of_needles else self._passkey(turn, rng)

    def state(self) -> dict[str, Any]:
        """The place as JSON values."""
        return {
            "index": self._index,
            "texts": {name: reader.state() for name, reader in self._readers.items()},
        }

    def go_to(self, state: dict[str, Any]) -> None:
        """Go on from a place."""
        self._index = state["index"]
        for name, reader in self._readers.items():
            reader.go_to(state["texts"][name])

    def _passkey(self, number: int, rng: random.Random) -> TrainingDocument:
        """The prompt as it is evaluated, with its answer."""
        key = draw_key(rng, training=True)
        length = self._length(number, self._shortest_passkey(key), rng)
        depth = GOLDEN * number % 1
        opening = len(self._encode.start)
        prompt = list(make_trial(self._encode, length + opening, key, depth).ids[opening:])
        answer = self._encode(ANSWER.format(key=key))
        weigh = _Weigher(self._digits, self._answer_weight, self._filler_weight, length)
        return _document(
            [(prompt, weigh.told(prompt)), (answer, weigh.asked(answer))],
            f"passkey at depth {depth:.2f} of {length} tokens",
        )

    def _needles(self, number: int, rng: random.Random) -> TrainingDocument:
        """Several facts in real text; they are asked for in another order than they were told."""
        count = rng.randint(FEWEST_NEEDLES, MOST_NEEDLES)
        names = list(dict.fromkeys(draw_name(rng) for _ in range(count)))
        needles = [make_needle(name, draw_key(rng, training=True), self._encode) for name in names]
        length = self._length(number, 2 * max(needle.num_tokens for needle in needles), rng)
        while sum(needle.num_tokens for needle in needles) > length / 2 and len(needles) > 1:
            needles.pop()
        depths = [(index + rng.random()) / len(needles) for index in range(len(needles))]
        name = list(self._readers)[number % len(self._readers)]
        text = self._text(self._readers[name], length - sum(needle.num_tokens for needle in needles))
        weigh = _Weigher(self._digits, self._answer_weight, self._filler_weight, length)
        stretches = hide(text, [needle.fact for needle in needles], depths)
        parts = [
            (ids, weigh.told(ids) if index % 2 else weigh.filler(ids)) for index, ids in enumerate(stretches)
        ]
        for needle in rng.sample(needles, len(needles)):
            parts += [
                (needle.question, weigh.filler(needle.question)),
                (needle.answer, weigh.asked(needle.answer)),
            ]
        return _document(
            parts,
            f"{len(needles)} needles in {length} tokens of {name}",
        )

    def _text(self, reader: SourceReader, num_tokens: int) -> list[int]:
        """As many tokens of real text, of as many documents as it takes."""
        ids: list[int] = []
        while len(ids) < num_tokens:
            ids += [*(self._between if ids else []), *next(reader).ids]
        return ids[:num_tokens]

    def _length(self, number: int, shortest: int, rng: random.Random) -> int:
        if number % 2 == 0 or shortest >= self._room:
            return self._room
        return round(math.exp(rng.uniform(math.log(shortest), math.log(self._room))))

    def _shortest_passkey(self, key: int) -> int:
        return num_without_filler(self._encode, key) - len(self._encode.start)


class _DigitTokens:
    """Which tokens hold a digit; each is looked at once."""

    def __init__(self, encode: Encoder) -> None:
        self._decode = encode.tokenizer.decode
        self._known: dict[int, bool] = {}

    def holds(self, token: int) -> bool:
        if token not in self._known:
            self._known[token] = any(character.isdigit() for character in self._decode([token]))
        return self._known[token]


class _Weigher:
    """Weights for the tokens of one generated text."""

    def __init__(self, digits: _DigitTokens, answer: float, filler: float, length: int) -> None:
        self._digits, self._filler = digits, filler
        self._answer = answer * max(1.0, length / WEIGHED_LENGTH)

    def filler(self, ids: list[int]) -> list[float]:
        return [self._filler] * len(ids)

    def asked(self, ids: list[int]) -> list[float]:
        return [self._answer if self._digits.holds(token) else self._filler for token in ids]

    def told(self, ids: list[int]) -> list[float]:
        """The first number in these nothing, others as answers: they are the first one told again."""
        weights, num_numbers, was_digit = [], 0, False
        for token in ids:
            is_digit = self._digits.holds(token)
            num_numbers += is_digit and not was_digit
            number = 0.0 if num_numbers == 1 else self._answer
            weights.append(number if is_digit else self._filler)
            was_digit = is_digit
        return weights


def _document(parts: Sequence[Weighed], what: str) -> TrainingDocument:
    return TrainingDocument(
        ids=torch.tensor([token for ids, _ in parts for token in ids]),
        counts=torch.tensor([weight for _, weights in parts for weight in weights], dtype=torch.float32),
        source=f"{RETRIEVAL}: {what}",
        whole=True,
    )
