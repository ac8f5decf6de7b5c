"""Greedy decoding of prompts, with the KV cache of what consecutive prompts begin with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ropewalk.evaluate.lm_head import Reader

READ_CHUNK = 16384  # tokens per piece of a longer prompt


class GreedyDecoder:
    """Continues prompts with the most likely tokens.

    Args:
        model: as in `Reader`.
        tokenizer: of the model.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._reader, self._tokenizer = Reader(model), tokenizer
        self._read: Tensor | None = None

    def continuations(
        self, ids: Tensor, num_tokens: int, is_complete: Callable[[str], bool] = lambda text: False
    ) -> list[str]:
        """Returns the text of at most `num_tokens` tokens after each prompt.

        The common beginning of these prompts and the ones before them is not read again.

        Args:
            ids: shape (batch, n), on the model's device.
            is_complete: decoding ends when it is true of every text.
        """
        num_known = self._reader.go_back_to(0 if self._read is None else _num_shared(self._read, ids))
        self._read = ids
        *_, (_, hidden) = self._reader.pieces(ids[:, num_known:], READ_CHUNK, keep=True)
        chosen = self._choose(hidden)
        answer = chosen
        texts = self._texts(answer)
        while answer.shape[1] < num_tokens and not all(map(is_complete, texts)):
            chosen = self._choose(self._reader.read(chosen, keep=True))
            answer = torch.cat([answer, chosen], dim=1)
            texts = self._texts(answer)
        return texts

    def _choose(self, hidden: Tensor) -> Tensor:
        return self._reader.logits(hidden[:, -1]).argmax(dim=-1, keepdim=True)

    def _texts(self, answer: Tensor) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(answer.tolist())
        return texts


def _num_shared(read: Tensor, ids: Tensor) -> int:
    """The number of tokens, without the last of `ids`, that both begin with; both of shape (batch, n)."""
    if len(read) != len(ids):
        return 0
    num = min(read.shape[1], ids.shape[1] - 1)
    same = (read[:, :num] == ids[:, :num]).all(dim=0)
    return int(same.int().cumprod(dim=0).sum())
