"""Generated texts whose ends depend on distant tokens: passkeys, and needles in real text.

Passkeys and needles alternate. Every second text of each kind is as long as a segment; the lengths of the
others are spread evenly on a logarithmic scale, from the shortest possible length to that. Depths are spread
evenly from the beginning to the end.

The weights in the loss decide whether a model learns retrieval at all (docs/what-did-not-work.md): the digits
of an answer have a large weight, the tokens around them a small one, and a number that appears for the first
time has the weight 0, because it can't be predicted.

    passkey   task filler The pass key is 12345. Remember it. 12345 is the pass key. filler question 12345.
    weight                              0                   8                                      8

The weight of an answer is proportional to the length of its text, so that answers have the same share of the
loss per token as in texts of 256 tokens, the length at which the bundled model learned retrieval.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice

import torch

from ropewalk.errors import SettingError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.joining import BETWEEN_JOINED
from ropewalk.finetune.data.settings import RETRIEVAL, MixtureSettings
from ropewalk.text.needles import Needle, draw_name, hide, make_needle
from ropewalk.text.passkey_prompt import ANSWER, FIRST_KEY, draw_key, make_trial, num_without_filler
from ropewalk.text.tokens import Encoder

FEWEST_NEEDLES, MOST_NEEDLES = 2, 5
WEIGHTED_LENGTH = 256  # tokens of the text in which an answer has the weight `answer_weight`
GOLDEN = (math.sqrt(5) - 1) / 2  # any number of its multiples are spread evenly modulo 1

Weighted = tuple[list[int], list[float]]


class RetrievalTexts:
    """Generated retrieval texts by number: the same number and text give the same document.

    Args:
        settings: weights and seed.
        encode: the tokenizer.
        longest: tokens of the longest document, without BOS and EOS.

    Raises:
        SettingError: `longest` is too short for a prompt.
    """

    def __init__(self, settings: MixtureSettings, encode: Encoder, longest: int) -> None:
        self._settings, self._encode, self._longest = settings, encode, longest
        self._digits = _DigitTokens(encode)
        self._between = encode(BETWEEN_JOINED)
        needed = self._shortest_passkey(FIRST_KEY)
        if any(source.kind == "text" for source in settings.sources):
            needed = max(needed, 2 * make_needle("bobobo", FIRST_KEY, encode).num_tokens)
        if longest < needed:
            raise SettingError(
                f"Generated retrieval texts need {needed} tokens with this tokenizer, but the stage has "
                f"{longest} between BOS and EOS: make the stage longer, or set retrieval_share to 0."
            )

    def make(self, numbers: Iterable[int], texts: Sequence[TrainingDocument]) -> Iterator[TrainingDocument]:
        """The documents of these numbers.

        Args:
            numbers: which documents.
            texts: text to hide needles in, repeated where it is too short; without any, all documents are
                passkeys.
        """
        text = cycle(self._joined(texts)) if texts else None
        for number in numbers:
            rng = random.Random(f"retrieval-{self._settings.seed}-{number}")
            if text is None:
                yield self._passkey(number, rng)
            elif number % 2:
                yield self._needles(number // 2, rng, text)
            else:
                yield self._passkey(number // 2, rng)

    def _joined(self, texts: Sequence[TrainingDocument]) -> list[int]:
        return [token for document in texts for token in [*document.ids.tolist(), *self._between]]

    def _passkey(self, number: int, rng: random.Random) -> TrainingDocument:
        """The prompt of the evaluation with its answer."""
        key = draw_key(rng, training=True)
        length = self._length(number, self._shortest_passkey(key), rng)
        depth = GOLDEN * number % 1
        opening = len(self._encode.start)
        prompt = list(make_trial(self._encode, length + opening, key, depth).ids[opening:])
        answer = self._encode(ANSWER.format(key=key))
        return self._document([self._statement(prompt, length), self._answer(answer, length)])

    def _needles(self, number: int, rng: random.Random, text: Iterator[int]) -> TrainingDocument:
        """Several facts in real text, then questions about them in another order."""
        needles = self._draw_needles(rng)
        length = self._length(number, 2 * max(needle.num_tokens for needle in needles), rng)
        while sum(needle.num_tokens for needle in needles) > length / 2 and len(needles) > 1:
            needles.pop()
        depths = [(index + rng.random()) / len(needles) for index in range(len(needles))]
        around = list(islice(text, length - sum(needle.num_tokens for needle in needles)))
        parts = [
            self._statement(ids, length) if index % 2 else self._filler(ids)
            for index, ids in enumerate(hide(around, [needle.fact for needle in needles], depths))
        ]
        for needle in rng.sample(needles, len(needles)):
            parts += [self._filler(needle.question), self._answer(needle.answer, length)]
        return self._document(parts)

    def _draw_needles(self, rng: random.Random) -> list[Needle]:
        """Two to five needles with different names."""
        count = rng.randint(FEWEST_NEEDLES, MOST_NEEDLES)
        names = list(dict.fromkeys(draw_name(rng) for _ in range(count)))
        return [make_needle(name, draw_key(rng, training=True), self._encode) for name in names]

    def _length(self, number: int, shortest: int, rng: random.Random) -> int:
        if number % 2 == 0 or shortest >= self._longest:
            return self._longest
        return round(math.exp(rng.uniform(math.log(shortest), math.log(self._longest))))

    def _shortest_passkey(self, key: int) -> int:
        return num_without_filler(self._encode, key) - len(self._encode.start)

    # ---------------------------------------------------------------- weights

    def _filler(self, ids: list[int]) -> Weighted:
        return ids, [self._settings.filler_weight] * len(ids)

    def _answer(self, ids: list[int], length: int) -> Weighted:
        """Digits have the weight of an answer in a text of that length."""
        weight = self._answer_weight(length)
        return ids, [weight if self._digits.has(token) else self._settings.filler_weight for token in ids]

    def _statement(self, ids: list[int], length: int) -> Weighted:
        """The first number has the weight 0; repetitions have the weight of answers."""
        weights, num_numbers, was_digit = [], 0, False
        for token in ids:
            is_digit = self._digits.has(token)
            num_numbers += is_digit and not was_digit
            number = 0.0 if num_numbers == 1 else self._answer_weight(length)
            weights.append(number if is_digit else self._settings.filler_weight)
            was_digit = is_digit
        return ids, weights

    def _answer_weight(self, length: int) -> float:
        return self._settings.answer_weight * max(1.0, length / WEIGHTED_LENGTH)

    def _document(self, parts: Sequence[Weighted]) -> TrainingDocument:
        return TrainingDocument(
            ids=torch.tensor([token for ids, _ in parts for token in ids]),
            weights=torch.tensor([weight for _, weights in parts for weight in weights]),
            source=RETRIEVAL,
            whole=True,
        )


class _DigitTokens:
    """Finds tokens with a digit; decodes each token once."""

    def __init__(self, encode: Encoder) -> None:
        self._decode = encode.tokenizer.decode
        self._known: dict[int, bool] = {}

    def has(self, token: int) -> bool:
        if token not in self._known:
            self._known[token] = any(character.isdigit() for character in self._decode([token]))
        return self._known[token]
