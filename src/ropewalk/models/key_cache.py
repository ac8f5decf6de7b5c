"""KV caches that record the keys and values of a text, and that replace them for a few of its tokens.

A text is read once with a `RecordingCache`. Later some of its tokens (the queries) are read again with a
`ReplacingCache`, which returns the recorded keys and values of all other tokens:

    tokens    0 1 2 3 4 5 6 7
    queries       2 3     6 7      through the model again, each sees all tokens up to itself
    recorded  0 1     4 5
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ropewalk.errors import ModelError

NAME = "sdpa_queries"
TILE_QUERIES = 128  # queries whose masks exist at once

LayerPair = tuple[Tensor, Tensor]  # what a layer stores: keys and values, (batch, heads, tokens, dim)
Record = Callable[
    [int, Tensor, Tensor], None
]  # takes the index of a layer, its keys after rotation, its values


class RecordingCache(Cache):  # type: ignore[misc]
    """Passes what each layer stores to a function, and stores nothing itself."""

    def __init__(self, record: Record) -> None:
        super().__init__(layer_class_to_replicate=lambda: _RecordingLayer(record, len(self.layers)))


class ReplacingCache(Cache):  # type: ignore[misc]
    """Returns recorded keys and values, with those of the queries replaced by what the model computes now.

    It stores nothing, so that a layer can run twice, as activation checkpointing needs.

    Args:
        recorded: from the index of a layer to its keys, after rotation, and values; called when it runs.
        num_layers: the number of layers.
        queries: the positions of the queries.
    """

    def __init__(self, recorded: Callable[[int], LayerPair], num_layers: int, queries: Tensor) -> None:
        super().__init__(layers=[_ReplacingLayer(recorded, index, queries) for index in range(num_layers)])


class _RecordingLayer(DynamicLayer):  # type: ignore[misc]
    def __init__(self, record: Record, index: int) -> None:
        super().__init__()
        self.record = record
        self.index = index

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> LayerPair:
        self.record(self.index, keys, values)
        return keys, values


class _ReplacingLayer(DynamicLayer):  # type: ignore[misc]
    def __init__(self, recorded: Callable[[int], LayerPair], index: int, queries: Tensor) -> None:
        super().__init__()
        self.recorded = recorded
        self.index = index
        self.queries = queries
        self.num_tokens = int(queries[-1]) + 1

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> LayerPair:
        all_keys, all_values = self.recorded(self.index)
        return self._replace(all_keys, keys), self._replace(all_values, values)

    def _replace(self, of_all: Tensor, of_queries: Tensor) -> Tensor:
        of_all = of_all[:, :, : self.num_tokens]
        if of_all.shape[2] < self.num_tokens:
            of_all = pad(of_all, (0, 0, 0, self.num_tokens - of_all.shape[2]))
        return of_all.to(of_queries).index_copy(2, self.queries, of_queries)


@contextmanager
def attention_of_queries(model: Any) -> Iterator[None]:
    """Inside the `with`, `read_queries` works, and backward passes through what it returns.

    Raises:
        ModelError: the model runs attention of another kind than sdpa or eager.
    """
    implementation = model.config._attn_implementation
    if implementation == "eager":
        yield
        return
    if implementation != "sdpa":
        raise ModelError(
            f"Kept keys need the attention implementation sdpa or eager, but it is {implementation}: load "
            f"the model with one of them, or use exact evaluation."
        )
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def read_queries(model: Any, decoder: Any, ids: Tensor, queries: Tensor, cache: ReplacingCache) -> Tensor:
    """Last hidden states of the queries, shape (num_queries, hidden_size).

    Args:
        model: a transformers causal model, within `attention_of_queries`.
        decoder: its decoder.
        ids: the token ids of the queries, shape (num_queries,).
        queries: their positions, ascending; every position after the recorded tokens is a query.
    """
    output = decoder(
        input_ids=ids.unsqueeze(0),
        position_ids=queries.unsqueeze(0),
        attention_mask=_mask(model, queries),
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state[0]  # type: ignore[no-any-return]


def _mask(model: Any, queries: Tensor) -> Tensor:
    """What attention takes as its mask; transformers passes a mask of four dimensions through unchanged.

    Returns:
        The positions of the queries, shape (1, 1, num_queries, 1), from which `_forward` makes real masks,
        tile by tile; with eager attention, a mask that is added to its logits.
    """
    if model.config._attn_implementation == NAME:
        return queries.view(1, 1, -1, 1)
    unseen = queries.unsqueeze(-1) < torch.arange(int(queries[-1]) + 1, device=queries.device)
    lowest = torch.finfo(model.dtype).min
    return torch.zeros_like(unseen, dtype=model.dtype).masked_fill(unseen, lowest)[None, None]


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers; `attention_mask` is the positions of the queries.

    Each tile of queries sees only the keys up to its last position. A head may run the model without
    queries; then there is another mask or none.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    outputs = []
    tiles = torch.split(attention_mask, TILE_QUERIES, dim=2), torch.split(query, TILE_QUERIES, dim=2)
    for positions, rows in zip(*tiles, strict=True):
        num_seen = int(positions[0, 0, -1, 0]) + 1
        mask = positions >= torch.arange(num_seen, device=positions.device)
        outputs.append(
            sdpa_attention_forward(
                module, rows, key[:, :, :num_seen], value[:, :, :num_seen], mask, **kwargs
            )[0]
        )
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
