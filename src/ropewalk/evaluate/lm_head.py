"""Reads tokens with a model's decoder, and makes logits for chosen positions only.

`model(input_ids).logits` of 131072 tokens and a vocabulary of 128k is 64 GiB in float32. So hidden states are
read first, and the head (`models.head`) is applied to a few positions at a time.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from ropewalk.models.attention import cut_back, piecewise_attention
from ropewalk.models.head import evaluating
from ropewalk.models.model import Model

__all__ = ["Reader", "evaluating"]


class Reader:
    """Reads tokens in chunks; later chunks see the earlier ones through the model's KV cache.

    No mask is passed, so that attention runs its causal kernel.

    Args:
        model: a `Model`, or a transformers causal model.

    Attributes:
        vocabulary_size: the number of logits per position.
        matrix: the output matrix, shape (vocabulary, hidden_size), if float32 logits are its product with
            hidden states; else None.
    """

    def __init__(self, model: Any) -> None:
        self._owner = Model.wrap(model)
        self._model = self._owner.model
        self._head = self._owner.head
        self.vocabulary_size: int = self._model.config.get_text_config(decoder=True).vocab_size
        self.matrix = self._head.matrix
        self._cache: Any = None

    def read(self, ids: Tensor, *, keep: bool) -> Tensor:
        """Last hidden states of the next tokens, shape (batch, n, hidden_size), for ids of shape (batch, n).

        With `keep`, the next tokens see these and all before them. The states are on the device of the ids,
        wherever the last layer is.
        """
        earlier = {} if self._cache is None else {"past_key_values": self._cache}
        is_later_piece = bool(earlier) and ids.shape[1] > 1
        with piecewise_attention(self._model) if is_later_piece else nullcontext():
            output = self._head.decoder(input_ids=ids, use_cache=keep, **earlier)
        self._cache = output.past_key_values if keep else None
        return output.last_hidden_state.to(ids.device)  # type: ignore[no-any-return]

    def go_back_to(self, num_tokens: int) -> int:
        """Forget all but the first `num_tokens` tokens, and return how many are still known.

        It returns 0 where the cache can't be cut: a sliding window or a recurrent state can't go back, and a
        model whose own scaling depends on the length would have rotated the tokens differently.
        """
        cache, self._cache = self._cache, None
        if self._owner.rotates_by_length or not cut_back(cache, num_tokens):
            return 0
        self._cache = cache
        return num_tokens

    def pieces(
        self, ids: Tensor, read_chunk: int | None, *, keep: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """(index of the first token, hidden states) of each chunk of `read_chunk` tokens; None reads at once.

        With `keep`, later reads see all of it.

        A model whose own scaling depends on the length (dynamic, longrope) reads at once in any case: the
        first chunks would rotate differently from the last.
        """
        length = ids.shape[1]
        if read_chunk is None or read_chunk >= length or self._owner.rotates_by_length:
            yield 0, self.read(ids, keep=keep)
            return
        for start in range(0, length, read_chunk):
            yield start, self.read(ids[:, start : start + read_chunk], keep=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own logits, shape (n, vocabulary), for hidden states of shape (n, hidden_size)."""
        return self._head.logits(hidden)
