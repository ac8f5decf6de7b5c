"""Negative log-likelihood of tokens: what every measurement and every search is made of."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ropewalk.errors import EvaluationError
from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.text.windows import TokenWindow

TOKENS_AT_ONCE = 4096  # short windows of one size are read together
TILE_LOGITS = 2**20  # logits that exist at once: 4 MiB in float32, near the processor
TILE_ROWS, TILE_COLUMNS = 512, 2048  # positions and vocabulary of such a tile, where both can be cut
FEWEST_ROWS = 64  # below, a large output matrix is read over and over


@dataclass(frozen=True, kw_only=True)
class NllSum:
    """Nats and tokens, kept apart until the end: a mean of means weighs a short text like a long one."""

    nll_sum_nats: float
    num_tokens: int

    def __add__(self, other: "NllSum") -> "NllSum":
        return NllSum(
            nll_sum_nats=self.nll_sum_nats + other.nll_sum_nats, num_tokens=self.num_tokens + other.num_tokens
        )

    @classmethod
    def of(cls, nll: Tensor) -> "NllSum":
        """The sum of tokens' nats, added up in float64."""
        return cls(nll_sum_nats=float(nll.sum(dtype=torch.float64)), num_tokens=nll.numel())

    @property
    def mean_nats(self) -> float:
        return self.nll_sum_nats / self.num_tokens

    @property
    def perplexity(self) -> float:
        return perplexity_of(self.mean_nats)


def perplexity_of(mean_nats: float) -> float:
    """exp of nats per token; infinite where that is beyond a float."""
    try:
        return math.exp(mean_nats)
    except OverflowError:
        return math.inf


def score_windows(
    model: Any,
    windows: Iterable[TokenWindow],
    *,
    read_chunk: int | None = None,
    score_chunk: int | None = None,
) -> NllSum:
    """Sum the negative log-likelihood of every scored token.

    A window is read whole; only its last `num_scored` tokens count, so each token of a document is scored
    once, with as much context as fits:

        read   <s> 0 1 2 3       read   1 2 3 4 5
        score      0 1 2 3       score        4 5    (1, 2 and 3 were scored before)

    Leaves the model's RoPE as it finds it; see `models.rotary` to change it.

    Args and results as in `window_nlls`.

    Raises:
        EvaluationError: no token was scored.
    """
    total = NllSum(nll_sum_nats=0.0, num_tokens=0)
    for nll in window_nlls(model, list(windows), read_chunk=read_chunk, score_chunk=score_chunk):
        total += NllSum.of(nll)
    if total.num_tokens == 0:
        raise EvaluationError("No token was scored: give at least one window of two tokens.")
    return total


def window_nlls(
    model: Any,
    windows: Sequence[TokenWindow],
    *,
    read_chunk: int | None = None,
    score_chunk: int | None = None,
) -> Iterator[Tensor]:
    """Nats of each window's scored tokens, window by window: float32, shape (num_scored,), on the CPU.

    The chunks change memory and time, never the result beyond rounding.

    Args:
        model: a transformers causal model; its device is where the work is done.
        read_chunk: tokens of a window read at once, the earlier ones in a KV cache, so that memory grows with
            the cache; None reads a window whole and without a cache, the fastest way: memory then grows with
            the length times the widest layer (never times the vocabulary).
        score_chunk: positions whose logits exist at once; None takes what suits the vocabulary.
    """
    with evaluating(model):
        for batch in _batches(windows):
            ids = torch.stack([window.ids for window in batch]).to(model.device)
            yield from _batch_nll(model, ids, batch[0].num_scored, read_chunk, score_chunk).cpu()


def _batches(windows: Sequence[TokenWindow]) -> Iterator[list[TokenWindow]]:
    """Consecutive windows of one shape, as many as are read at once."""
    by_shape = itertools.groupby(windows, key=lambda window: (len(window.ids), window.num_scored))
    for (length, _), group in by_shape:
        alike = list(group)
        num_rows = max(1, TOKENS_AT_ONCE // length)
        yield from (alike[start : start + num_rows] for start in range(0, len(alike), num_rows))


def _batch_nll(
    model: Any, ids: Tensor, num_scored: int, read_chunk: int | None, score_chunk: int | None
) -> Tensor:
    """Shape (batch, num_scored) for ids of shape (batch, n)."""
    reader = Reader(model)
    length = ids.shape[1]
    first = length - 1 - num_scored  # the first position whose next token is scored
    parts = []
    for start, hidden in reader.pieces(ids, read_chunk):
        begin, end = max(first, start), min(length - 1, start + hidden.shape[1])
        if begin < end:
            rows = hidden[:, begin - start : end - start].flatten(0, 1)
            targets = ids[:, begin + 1 : end + 1].flatten()
            parts.append(_scored(reader, rows, targets, score_chunk).view(len(ids), -1))
    return torch.cat(parts, dim=1)


def _scored(reader: Reader, hidden: Tensor, targets: Tensor, score_chunk: int | None) -> Tensor:
    """Nats of each target, shape (n,), for hidden states of shape (n, hidden_size)."""
    in_tiles = reader.matrix is not None and reader.vocabulary_size > TILE_COLUMNS
    suitable = TILE_ROWS if in_tiles else max(FEWEST_ROWS, TILE_LOGITS // reader.vocabulary_size)
    num_rows = score_chunk or suitable
    parts = []
    for start in range(0, len(targets), num_rows):
        rows, following = hidden[start : start + num_rows], targets[start : start + num_rows]
        if reader.matrix is not None and in_tiles:
            parts.append(_nll_in_tiles(rows, reader.matrix, following))
        else:
            parts.append(cross_entropy(reader.logits(rows).float(), following, reduction="none"))
    return torch.cat(parts)


def _nll_in_tiles(hidden: Tensor, matrix: Tensor, targets: Tensor) -> Tensor:
    """As `cross_entropy` of hidden x matrix, with logits that are summed where they are made.

    Rows of a large vocabulary, written out and read again, take longer than their product; tiles of 4 MiB
    stay near the processor.
    """
    buffer = hidden.new_empty(len(hidden) * TILE_COLUMNS)
    parts = []
    for start in range(0, len(matrix), TILE_COLUMNS):
        columns = matrix[start : start + TILE_COLUMNS]
        tile = buffer[: len(hidden) * len(columns)].view(len(hidden), len(columns))
        torch.mm(hidden, columns.T, out=tile)
        largest = tile.amax(dim=1, keepdim=True)
        parts.append(tile.sub_(largest).exp_().sum(dim=1).log_() + largest.squeeze(1))
    chosen = (hidden * matrix[targets]).sum(dim=1)
    return torch.stack(parts).logsumexp(dim=0) - chosen
