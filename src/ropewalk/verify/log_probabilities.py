"""The log-probabilities of a completion's tokens: a server's, compared with the model's own.

A server identifies a token by its id or by its text. `TokenNames` finds the ids that a text may mean.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.verify.completion_reply import CompletionToken, Token

NO_TEXT = "\N{REPLACEMENT CHARACTER}"  # in the text of a token that is part of a character


class ModelLogProbabilities:
    """What a model computes at the places of a completion."""

    def __init__(self, loaded: Model) -> None:
        self._loaded = loaded
        self._names = TokenNames(loaded.tokenizer)

    def difference(
        self, ids: Sequence[int], steps: Sequence[CompletionToken], factors: RescaleFactors
    ) -> float | None:
        """The mean difference over the steps and their likeliest tokens, in nats; None without any.

        The model reads the tokens that the server chose, so that each step continues the same text. The steps
        after a token of unknown name are not compared.

        Args:
            ids: the prompt.
            factors: the factors of the model.
        """
        if not steps:
            return None
        with self._loaded.using(factors), evaluating(self._loaded.model):
            rows = self._read(ids, [self._names.ids(step.chosen) for step in steps[:-1]])
        return mean([self._names.difference(step, row) for step, row in zip(steps, rows, strict=False)])

    def _read(self, ids: Sequence[int], chosen: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities after the prompt and after each chosen token, shape (steps, vocabulary).

        Args:
            chosen: the ids that each token may be. The likeliest of them is used, as in greedy decoding.
        """
        reader, piece, rows, place = Reader(self._loaded.model), list(ids), [], 0
        while True:
            sure = [candidates[0] for candidates in takewhile(lambda found: len(found) == 1, chosen[place:])]
            place += len(sure)
            is_open = place < len(chosen) and len(chosen[place]) > 1
            read = torch.tensor([piece + sure], device=self._loaded.model.device)
            hidden = reader.read(read, keep=is_open)[0][-len(sure) - 1 :]
            rows.append(reader.logits(hidden).to(torch.float64).log_softmax(dim=-1).cpu())
            if not is_open:
                return torch.cat(rows)
            candidates = list(chosen[place])
            piece = [candidates[int(rows[-1][-1, candidates].argmax())]]
            place += 1


class TokenNames:
    """The ids that a server's name of a token may mean.

    An id is unique. A text may mean each id that the tokenizer decodes to it, alone or after
    another token: SentencePiece drops the space of ` the` at the beginning of a text, and servers differ in
    which of the two they send. A token that is part of a character has no name.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._by_text: dict[str, list[int]] = {}

    def ids(self, token: Token) -> list[int]:
        """In ascending order; empty for an unknown name."""
        if isinstance(token, int):
            return [token] if 0 <= token < len(self._tokenizer) else []
        if not self._by_text:
            self._by_text = self._texts()
        return self._by_text.get(token, [])

    def difference(self, step: CompletionToken, log_probabilities: Tensor) -> float | None:
        """The mean difference over a step's likeliest tokens, in nats.

        If a text may mean several ids, the nearest value counts. Infinite if no name is known; None if no
        token has a name.

        Args:
            log_probabilities: the model's, shape (vocabulary,).
        """
        named = named_tokens(step)
        differences = [
            float((log_probabilities[ids] - value).abs().min())
            for token, value in named.items()
            if (ids := self.ids(token))
        ]
        return (mean(differences) if differences else float("inf")) if named else None

    def _texts(self) -> dict[str, list[int]]:
        count, tokenizer = len(self._tokenizer), self._tokenizer
        before = tokenizer("a", add_special_tokens=False).input_ids[-1:]
        skipped = len(tokenizer.decode(before))
        found: dict[str, set[int]] = defaultdict(set)
        alone = tokenizer.batch_decode([[number] for number in range(count)])
        after = tokenizer.batch_decode([[*before, number] for number in range(count)])
        for number in range(count):
            found[alone[number]].add(number)
            found[after[number][skipped:]].add(number)
        return {text: sorted(ids) for text, ids in found.items()}


def named_tokens(step: CompletionToken) -> dict[Token, float]:
    """The likeliest tokens that have a name, with their log-probabilities."""
    return {token: value for token, value in step.likeliest.items() if is_name(token)}


def is_name(token: Token) -> bool:
    """Whether this is an id, or the text of a whole character."""
    return isinstance(token, int) or (bool(token) and NO_TEXT not in token)


def mean(values: Sequence[float | None]) -> float | None:
    """The mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
