"""The negative log-likelihood (NLL) of tokens, from which perplexities and objectives are computed."""

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
from ropewalk.text.readings import Reading
from ropewalk.text.windows import TokenWindow

TOKENS_PER_BATCH = 4096  # short windows of one size are read together
TILE_LOGITS = 2**20  # logits in memory at once: 4 MiB in float32, which fits a processor's cache
TILE_ROWS, TILE_COLUMNS = 512, 2048  # positions and vocabulary entries per tile, if both can be cut
FEWEST_ROWS = 64  # with fewer rows, a large output matrix is read too often


@dataclass(frozen=True, kw_only=True)
class NllSum:
    """The summed NLL of some tokens, and their number, so that sums of several documents can be added.

    Attributes:
        nll_sum_nats: nats.
        num_tokens: scored tokens.
    """

    nll_sum_nats: float
    num_tokens: int

    def __add__(self, other: "NllSum") -> "NllSum":
        return NllSum(
            nll_sum_nats=self.nll_sum_nats + other.nll_sum_nats, num_tokens=self.num_tokens + other.num_tokens
        )

    @classmethod
    def of(cls, nll: Tensor) -> "NllSum":
        """Returns the sum, in float64, of the NLL of tokens, shape (n,), in nats."""
        return cls(nll_sum_nats=float(nll.sum(dtype=torch.float64)), num_tokens=nll.numel())

    @property
    def mean_nats(self) -> float:
        """Nats per token."""
        return self.nll_sum_nats / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp of nats per token."""
        return perplexity_of(self.mean_nats)


def perplexity_of(mean_nats: float) -> float:
    """Returns exp of nats per token; infinity if that is above the largest float."""
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
    """Returns the summed NLL of the scored tokens of all windows.

    The model reads a whole window, and its last `num_scored` tokens are scored, so that each token of a
    document is scored once, with as much context as fits:

        read   <s> 0 1 2 3       read   1 2 3 4 5
        score      0 1 2 3       score        4 5    (an earlier window scored 1, 2 and 3)

    Args:
        model, read_chunk, score_chunk: see `window_nlls`.

    Raises:
        EvaluationError: there is no window.
    """
    total = NllSum(nll_sum_nats=0.0, num_tokens=0)
    for nll in window_nlls(model, list(windows), read_chunk=read_chunk, score_chunk=score_chunk):
        total += NllSum.of(nll)
    if total.num_tokens == 0:
        raise EvaluationError("There is no token to score: give at least one window of two tokens.")
    return total


def score_reading(model: Any, reading: Reading) -> dict[str, NllSum]:
    """Returns the summed NLL of each term's tokens, from one forward pass.

    Args:
        model: as in `window_nlls`.
    """
    with evaluating(model):
        reader = Reader(model)
        ids = reading.ids.to(model.device)
        targets = reading.targets.to(model.device)
        hidden = reader.read(ids.unsqueeze(0), keep=False)[0]
        nll = scored_nll(reader, hidden[targets - 1], ids[targets]).cpu()
    return sums_by_term(reading, nll)


def sums_by_term(reading: Reading, nll: Tensor) -> dict[str, NllSum]:
    """The NLL of a reading's targets, shape (num_targets,), summed by term."""
    return {term: NllSum.of(reading.of_targets(nll, term)) for term in reading.scored}


def window_nlls(
    model: Any,
    windows: Sequence[TokenWindow],
    *,
    read_chunk: int | None = None,
    score_chunk: int | None = None,
) -> Iterator[Tensor]:
    """Yields the NLL of each window's scored tokens, in nats.

    The chunks change memory and time, but the result only by rounding. Factors that are installed in the
    model stay installed.

    Args:
        model: a transformers causal model; the computation runs on its device.
        read_chunk: tokens that the model reads at once, with the earlier ones in a KV cache: memory grows
            with the cache. None reads a window at once without a cache, which is fastest: memory grows with
            the length times the widest layer, but not with the vocabulary.
        score_chunk: positions whose logits are in memory at once; None chooses by the vocabulary.

    Yields:
        For each window a float32 tensor of shape (num_scored,) on the CPU.
    """
    with evaluating(model):
        for batch in _batches(windows):
            ids = torch.stack([window.ids for window in batch]).to(model.device)
            yield from _batch_nll(model, ids, batch[0].num_scored, read_chunk, score_chunk).cpu()


def _batches(windows: Sequence[TokenWindow]) -> Iterator[list[TokenWindow]]:
    """Batches of consecutive windows of one shape."""
    by_shape = itertools.groupby(windows, key=lambda window: (len(window.ids), window.num_scored))
    for (length, _), group in by_shape:
        alike = list(group)
        num_rows = max(1, TOKENS_PER_BATCH // length)
        yield from (alike[start : start + num_rows] for start in range(0, len(alike), num_rows))


def _batch_nll(
    model: Any, ids: Tensor, num_scored: int, read_chunk: int | None, score_chunk: int | None
) -> Tensor:
    """The NLL of scored tokens, shape (batch, num_scored), for ids of shape (batch, n)."""
    reader = Reader(model)
    length = ids.shape[1]
    first = length - 1 - num_scored  # the first position that predicts a scored token
    parts = []
    for start, hidden in reader.pieces(ids, read_chunk):
        begin, end = max(first, start), min(length - 1, start + hidden.shape[1])
        if begin < end:
            rows = hidden[:, begin - start : end - start].flatten(0, 1)
            targets = ids[:, begin + 1 : end + 1].flatten()
            parts.append(scored_nll(reader, rows, targets, score_chunk).view(len(ids), -1))
    return torch.cat(parts, dim=1)


def scored_nll(reader: Reader, hidden: Tensor, targets: Tensor, score_chunk: int | None = None) -> Tensor:
    """The NLL of targets, shape (n,), for the hidden states before them, shape (n, hidden_size)."""
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
    """The cross entropy of hidden @ matrix.T, whose logits are reduced tile by tile.

    Writing the logits of a large vocabulary to memory and reading them takes longer than computing them; a
    tile of 4 MiB stays in the processor's cache.

    Args:
        hidden: shape (n, hidden_size).
        matrix: shape (vocabulary, hidden_size).
        targets: token ids, shape (n,).
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
