"""Scores a text under other factors without reading it again, from keys and values that were kept.

A text is read once, and the keys before rotation and the values of all layers are kept. For other factors the
kept keys are rotated, and only the queries run through the model: the tokens before scored ones. Values, and
keys before rotation, do not depend on the factors in the first layer, so it is exact. In higher layers they
are those of the factors that the text was read under, so the result is approximate unless the factors are
equal.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import ModelError
from ropewalk.evaluate.gradient import KEPT_BYTES, ReadingGradient, kept_bytes, score_rows
from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.evaluate.nll import NllSum, scored_nll, sums_by_term
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.activation_checkpointing import DifferentiableAttention, frozen, recomputing
from ropewalk.models.key_cache import (
    LayerPair,
    RecordingCache,
    ReplacingCache,
    attention_of_queries,
    read_queries,
)
from ropewalk.models.model import Model
from ropewalk.models.rotary import float64_device
from ropewalk.models.rotary_gradients import traced_tables
from ropewalk.rope.frequencies import cos_sin
from ropewalk.text.readings import Reading

COPIES = 8  # of keys and values in a graph: rotated, with replaced queries, with repeated heads
# From the index of a layer to cos and sin of each position and key dimension (`KeyRotation.columns`).
ColumnsOf = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptKeys:
    """The keys and values of a text that was read once.

    Attributes:
        ids: its token ids, shape (n,), on the CPU.
        factors: those that it was read under.
        layers: keys before rotation and values of each layer, shapes (1, heads, n, key_dim) and
            (1, heads, n, value_dim). A layer whose keys factors do not change has its keys after rotation.
    """

    ids: Tensor
    factors: RescaleFactors
    layers: tuple[LayerPair, ...]

    @property
    def num_bytes(self) -> int:
        """The memory of all keys and values."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)

    def queries(self, reading: Reading) -> Tensor:
        """The positions of a reading that run through the model, ascending, on the CPU.

        They are the tokens before scored ones, those that differ from the kept text or come after it, and
        those that the reading names.
        Tokens after the last target run in no case.
        """
        last = int(reading.targets[-1])
        is_query = torch.ones(last, dtype=torch.bool)
        num_known = min(last, len(self.ids))
        is_query[:num_known] = reading.ids[:num_known].cpu() != self.ids[:num_known]
        is_query[reading.targets - 1] = True
        is_query[reading.fresh[reading.fresh < last]] = True
        return is_query.nonzero().squeeze(1)


def keep(
    model: Any,
    ids: Tensor,
    factors: RescaleFactors,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> KeptKeys:
    """Read a text under these factors, and keep its keys and values.

    Args:
        model: a `Model`, or a transformers causal model; stays unchanged.
        ids: token ids, shape (n,).
        dtype: in which they are kept; None for the model's.
        device: where they are kept; None for the model's.

    Raises:
        FactorsError, ModelError: as `Model.install`; or the keys of this model can't be kept.
    """
    return _read(Model.wrap(model), ids, factors, dtype, device)[0]


def score_and_keep(
    model: Any,
    reading: Reading,
    factors: RescaleFactors,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[dict[str, NllSum], KeptKeys]:
    """`score_reading` under these factors, and `keep`, from one forward pass; arguments as there."""
    model = Model.wrap(model)
    kept, hidden = _read(model, reading.ids, factors, dtype, device)
    targets = reading.targets.to(hidden.device)
    with evaluating(model.model):
        nll = scored_nll(Reader(model), hidden[targets - 1], reading.ids.to(hidden.device)[targets])
    return sums_by_term(reading, nll.cpu()), kept


def _read(
    model: Model,
    ids: Tensor,
    factors: RescaleFactors,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[KeptKeys, Tensor]:
    """Kept keys, and the last hidden states, shape (n, hidden_size)."""
    rotation = model.key_rotation
    _require_full_attention(model, len(ids))
    columns_of = _exact_columns(model, factors, len(ids), inverse=True)
    layers: list[LayerPair] = []

    def record(index: int, keys: Tensor, values: Tensor) -> None:
        kept_dtype = dtype or keys.dtype
        if rotation.layers[index]:
            keys, values = rotation.rotate((keys, values), *columns_of(index))
        keys, values = (tensor.to(device, kept_dtype, copy=True) for tensor in (keys, values))
        layers.append((keys, values))

    with torch.inference_mode(False), evaluating(model.model), model.using(factors):
        on_device = ids.to(model.model.device).unsqueeze(0)
        output = model.decoder(input_ids=on_device, past_key_values=RecordingCache(record), use_cache=True)
    return KeptKeys(ids=ids.cpu(), factors=factors, layers=tuple(layers)), output.last_hidden_state[0]


def score_kept(model: Any, kept: KeptKeys, reading: Reading, factors: RescaleFactors) -> dict[str, NllSum]:
    """The summed NLL of each term's tokens under these factors, as `score_reading` of a model with them.

    Raises:
        FactorsError, ModelError: as `keep`.
    """
    model = Model.wrap(model)
    columns_of = _exact_columns(model, factors, len(kept.ids))
    with evaluating(model.model), model.using(factors), attention_of_queries(model.model):
        reader = Reader(model)
        hidden, following = _before_targets(model, kept, reading, columns_of)
        nll = scored_nll(reader, hidden, following).cpu()
    return sums_by_term(reading, nll)


def kept_gradient(
    model: Any,
    kept: KeptKeys,
    reading: Reading,
    factors: RescaleFactors,
    weights: Mapping[str, float],
    *,
    checkpoint: bool | None = None,
) -> ReadingGradient:
    """The gradient of the weighted sum of what `score_kept` returns, as `reading_gradient`.

    Args:
        weights: of a nat of each term.
        checkpoint: as in `nll_gradient`; None decides by an estimate of the memory.

    Raises:
        FactorsError, ModelError: as `keep`; or as `reading_gradient`.
    """
    model = Model.wrap(model)
    again = _will_checkpoint(model, kept, reading) if checkpoint is None else checkpoint
    positions = torch.arange(len(kept.ids), device=model.model.device)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen(model.model),
        traced_tables(model, factors) as tables,
        attention_of_queries(model.model),
    ):
        columns = model.key_rotation.columns(*tables.cos_sin(positions, _precise(model.model.dtype)))
        with DifferentiableAttention(), recomputing(tables.decoder_layers()) if again else nullcontext():
            hidden, following = _before_targets(model, kept, reading, lambda _: columns)
            of_targets = reading.weights(weights).to(hidden.device)
            nll, gradient = score_rows(Reader(model), hidden.detach(), following, of_targets)
            torch.autograd.backward(hidden, gradient)
        return ReadingGradient.of(sums_by_term(reading, nll.cpu()), tables.gradient(), factors)


def _before_targets(
    model: Model, kept: KeptKeys, reading: Reading, columns_of: ColumnsOf
) -> tuple[Tensor, Tensor]:
    """The hidden state before each target, shape (num_targets, hidden_size), and the ids of the targets."""
    device = model.model.device
    queries = kept.queries(reading)
    cache = ReplacingCache(_rotated(model, kept, columns_of), len(kept.layers), queries.to(device))
    ids = reading.ids[queries].to(device)
    _require_full_attention(model, int(queries[-1]) + 1)
    hidden = read_queries(model.model, model.decoder, ids, queries.to(device), cache)
    rows = torch.searchsorted(queries, reading.targets - 1)
    return hidden[rows.to(device)], reading.ids[reading.targets].to(device)


def _rotated(model: Model, kept: KeptKeys, columns_of: ColumnsOf) -> Callable[[int], LayerPair]:
    """A function from the index of a layer to its rotated keys and its values."""
    device, rotation = model.model.device, model.key_rotation

    def of_layer(index: int) -> LayerPair:
        keys, values = (tensor.to(device) for tensor in kept.layers[index])
        if not rotation.layers[index]:
            return keys, values
        return rotation.rotate((keys, values), *columns_of(index))

    return of_layer


def _exact_columns(
    model: Model, factors: RescaleFactors, num_tokens: int, *, inverse: bool = False
) -> ColumnsOf:
    """cos and sin of each position and key dimension; those of the last row of factors are stored."""
    device = model.model.device
    positions = torch.arange(num_tokens, device=float64_device(device))

    @lru_cache(maxsize=1)
    def of_row(row: int) -> tuple[Tensor, Tensor]:
        columns = model.key_rotation.columns(*cos_sin(factors, positions, row), inverse=inverse)
        cos, sin = (part.to(_precise(model.model.dtype)).to(device) for part in columns)
        return cos, sin

    return lambda index: of_row(index if factors.per_layer else 0)


def _will_checkpoint(model: Model, kept: KeptKeys, reading: Reading) -> bool:
    """Whether activations are computed twice: those of the queries, and rotated keys with repeated heads."""
    num_bytes = kept_bytes(model.model, len(kept.queries(reading))) + COPIES * kept.num_bytes
    return num_bytes > KEPT_BYTES


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def refusal_to_keep(model: Model, num_tokens: int) -> str | None:
    """Why the keys of a model can't be kept for texts of this length; None if they can."""
    try:
        _require_full_attention(model, num_tokens)
        _ = model.key_rotation  # it is learnt here
    except ModelError as error:
        return str(error)
    return None


def _require_full_attention(model: Model, num_tokens: int) -> None:
    window = model.description.sliding_window
    if window is not None and window < num_tokens and not model.full_attention:
        raise ModelError(
            f"The keys of {model.name} can't be kept for {num_tokens} tokens: some of its layers see only "
            f"{window}; use exact evaluation, or lift the windows with --full-attention."
        )
