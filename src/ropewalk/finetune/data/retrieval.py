"""Generated texts whose ends depend on distant tokens: passkeys, and facts in real text.

Passkeys and facts alternate. Every second text of each kind is as long as a segment; the lengths of the
others are spread evenly on a logarithmic scale, from the shortest possible length to that. Depths are spread
evenly from the beginning to the end.

The weights in the loss decide whether a model learns retrieval at all (docs/what-did-not-work.md): the tokens
of an answer have a large weight, the tokens around them a small one, and a value that appears for the first
time has the weight 0, because it can't be predicted.

    passkey   task filler The pass key is 12345. Remember it. 12345 is the pass key. filler question 12345.
    weight                              0                   8                                      8
    facts     text Set amber_field to 52170 before the start. text Before the start, set amber_field to 52170.
    weight                            0                                                               8

The weight of an answer is proportional to the length of its text, so that answers have the same share of the
loss per token as in texts of 256 tokens, the length at which the bundled model learned retrieval.

The keys of passkeys are not those of the evaluation. The keys and values of facts are drawn as in evaluation:
an answer can only be copied from its text. No text has a wording of `HELD_OUT_WORDINGS`.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, cycle, islice

import torch

from ropewalk.errors import SettingError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.joining import BETWEEN_JOINED
from ropewalk.finetune.data.settings import RETRIEVAL, MixtureSettings
from ropewalk.text.facts import Fact, draw_facts, fact_text
from ropewalk.text.passkey_prompt import ANSWER, FIRST_KEY, draw_key, make_trial, num_without_filler
from ropewalk.text.tokens import Encoder

FEWEST_FACTS, MOST_FACTS = 2, 5
WEIGHTED_LENGTH = 256  # tokens of the text in which an answer has the weight `answer_weight`
GOLDEN = (math.sqrt(5) - 1) / 2  # any number of its multiples are spread evenly modulo 1


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
        needed = self._shortest_passkey(FIRST_KEY)  # longer than any fact with its question
        if longest < needed:
            raise SettingError(
                f"Generated retrieval texts need {needed} tokens with this tokenizer, but the stage has "
                f"{longest} between BOS and EOS: make the stage longer, or set retrieval_share to 0."
            )

    def make(self, numbers: Iterable[int], texts: Sequence[TrainingDocument]) -> Iterator[TrainingDocument]:
        """The documents of these numbers.

        Args:
            numbers: which documents.
            texts: text to hide facts in, repeated where it is too short; without any, all documents are
                passkeys.
        """
        text = cycle(self._joined(texts)) if texts else None
        for number in numbers:
            rng = random.Random(f"retrieval-{self._settings.seed}-{number}")
            if text is None:
                yield self._passkey(number, rng)
            elif number % 2:
                yield self._facts(number // 2, rng, text)
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
        weights = [*self._passkey_weights(prompt, length), *[self._answer_weight(length)] * len(answer)]
        return self._document([*prompt, *answer], weights)

    def _facts(self, number: int, rng: random.Random, text: Iterator[int]) -> TrainingDocument:
        """Several facts in real text, then questions about all of them in another order."""
        facts = draw_facts(rng.randint(FEWEST_FACTS, MOST_FACTS), rng)
        num_tokens = [self._num_tokens(fact) for fact in facts]
        length = self._length(number, 2 * max(num_tokens), rng)
        count = max(1, sum(total <= length / 2 for total in accumulate(num_tokens)))
        found = fact_text(
            list(islice(text, length)),
            length,
            facts[:count],
            [(index + rng.random()) / count for index in range(count)],
            rng.sample(range(count), count),
            self._encode,
        )
        weights = [self._settings.filler_weight] * length
        for position in chain.from_iterable(found.values):
            weights[position] = 0.0
        for position in chain.from_iterable(found.answers):
            weights[position] = self._answer_weight(length)
        return self._document(found.ids, weights)

    def _num_tokens(self, fact: Fact) -> int:
        """Of a fact with its question and answer."""
        return sum(len(self._encode(part)) for part in (fact.statement, fact.question, fact.answer))

    def _length(self, number: int, shortest: int, rng: random.Random) -> int:
        if number % 2 == 0 or shortest >= self._longest:
            return self._longest
        return round(math.exp(rng.uniform(math.log(shortest), math.log(self._longest))))

    def _shortest_passkey(self, key: int) -> int:
        return num_without_filler(self._encode, key) - len(self._encode.start)

    def _passkey_weights(self, prompt: list[int], length: int) -> list[float]:
        """The first number has the weight 0; its repetition has the weight of an answer."""
        weights, num_numbers, was_digit = [], 0, False
        for token in prompt:
            is_digit = self._digits.has(token)
            num_numbers += is_digit and not was_digit
            number = 0.0 if num_numbers == 1 else self._answer_weight(length)
            weights.append(number if is_digit else self._settings.filler_weight)
            was_digit = is_digit
        return weights

    def _answer_weight(self, length: int) -> float:
        return self._settings.answer_weight * max(1.0, length / WEIGHTED_LENGTH)

    def _document(self, ids: Sequence[int], weights: Sequence[float]) -> TrainingDocument:
        return TrainingDocument(
            ids=torch.tensor(ids), weights=torch.tensor(weights), source=RETRIEVAL, whole=True
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
