"""The gradient of a window's negative log-likelihood with respect to rescale and attention factors.

The model is frozen: gradients flow through its activations only. Logits exist for a tile of positions at a
time, in both passes; for long windows, only one hidden state per layer is kept, and the rest is recomputed.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from ropewalk.evaluate.lm_head import Reader
from ropewalk.evaluate.nll import NllSum, sums_by_term
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.activation_checkpointing import DifferentiableAttention, frozen, recomputing
from ropewalk.models.model import Model
from ropewalk.models.rotary_gradients import FactorGradients, TableGradients, traced_tables
from ropewalk.text.readings import Reading
from ropewalk.text.windows import TokenWindow

TILE_LOGITS = 2**20  # logits that exist at once, with their gradients, where that is not too few positions
FEWEST_ROWS = 256

# Above this many bytes of activations, they are computed again instead of kept.
KEPT_BYTES = 2 * 2**30
# Numbers that a layer keeps per token, in hidden and in intermediate sizes: norms, queries, keys and values
# before and after the rotary; the gate, its activation and its factor.
KEPT_HIDDEN_SIZES, KEPT_INTERMEDIATE_SIZES = 10, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class NllGradient:
    """The nats of one window and their derivatives, which may be infinite or NaN.

    Attributes:
        nll: the sum over scored tokens, as from `score_windows`.
        by_log_factor: d(sum of nats) / d(ln lambda_i), float64, shape (num_pairs,).
        by_log_attention: d(sum of nats) / d(ln attention factor).
        by_log_near_attention: the same for that of the near part; 0 for plain factors.
    """

    nll: NllSum
    by_log_factor: NDArray[np.float64]
    by_log_attention: float
    by_log_near_attention: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadingGradient:
    """The nats of one reading by term, and the derivatives of their weighted sum.

    Attributes:
        sums: of each term, without its weight.
        by_log_factor, by_log_attention, by_log_near_attention: as in `NllGradient`, of the sum of weight
            times nats.
    """

    sums: dict[str, NllSum]
    by_log_factor: NDArray[np.float64]
    by_log_attention: float
    by_log_near_attention: float = 0.0

    @classmethod
    def of(
        cls, sums: dict[str, NllSum], gradients: FactorGradients, factors: RescaleFactors
    ) -> "ReadingGradient":
        """From derivatives with respect to the values of factors instead of their logarithms."""
        return cls(
            sums=sums,
            by_log_factor=gradients.rescale_factors.cpu().numpy() * factors.array()[0],
            by_log_attention=float(gradients.attention_factor) * factors.attention_factor,
            by_log_near_attention=float(gradients.near_attention_factor) * factors.near_attention_factor,
        )


def nll_gradient(
    model: Any,
    window: TokenWindow,
    factors: RescaleFactors,
    *,
    checkpoint: bool | None = None,
) -> NllGradient:
    """The gradient of one window's summed NLL at these factors; leaves the model unchanged.

    Args:
        model: a `Model`, or a transformers causal model.
        factors: one vector for all layers; what is installed now is installed again afterwards.
        checkpoint: compute activations twice instead of keeping them; None does as `will_checkpoint`.

    Raises:
        FactorsError: the factors are per layer, or of another geometry.
        ModelError: as in `Model.install`; no list of layers to checkpoint is found; or the model switches
            gradients off in its own forward pass.
        EvaluationError: the model can't be measured in pieces, as in `score_windows`.
    """
    found = reading_gradient(
        model, Reading.of_window(window, "nll"), factors, {"nll": 1.0}, checkpoint=checkpoint
    )
    return NllGradient(
        nll=found.sums["nll"],
        by_log_factor=found.by_log_factor,
        by_log_attention=found.by_log_attention,
        by_log_near_attention=found.by_log_near_attention,
    )


def reading_gradient(
    model: Any,
    reading: Reading,
    factors: RescaleFactors,
    weights: Mapping[str, float],
    *,
    checkpoint: bool | None = None,
) -> ReadingGradient:
    """The gradient of the weighted sum of one reading's nats, from one forward and one backward pass.

    Args:
        weights: of a nat of each term.
        model, factors, checkpoint: as in `nll_gradient`.

    Raises:
        RopewalkError: as `nll_gradient`.
    """
    nll, gradients = gradient_tensors(model, reading, factors, weights, checkpoint=checkpoint)
    return ReadingGradient.of(sums_by_term(reading, nll.cpu()), gradients, factors)


def gradient_tensors(
    model: Any,
    reading: Reading,
    factors: RescaleFactors,
    weights: Mapping[str, float],
    *,
    checkpoint: bool | None = None,
) -> tuple[Tensor, FactorGradients]:
    """As `reading_gradient`, in tensors.

    Returns:
        Nats of each target, shape (num_targets,); the derivatives of their weighted sum.
    """
    model = Model.wrap(model)
    again = will_checkpoint(model.model, len(reading.ids)) if checkpoint is None else checkpoint
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen(model.model),
        traced_tables(model, factors) as tables,
    ):
        nll = _backpropagate(model, reading, reading.weights(weights), tables, again)
        return nll, tables.gradient()


def gradient_cost(checkpointed: bool) -> float:
    """The cost of a gradient in forward passes: one forward, two for backward, one more if checkpointed."""
    return 4.0 if checkpointed else 3.0


def will_checkpoint(model: Any, length: int) -> bool:
    """Whether a gradient at `length` tokens computes activations twice by default."""
    return kept_bytes(model, length) > KEPT_BYTES


def kept_bytes(model: Any, length: int) -> int:
    """An estimate of the bytes of all activations of `length` tokens."""
    config = model.config.get_text_config(decoder=True)
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    width = KEPT_HIDDEN_SIZES * config.hidden_size + KEPT_INTERMEDIATE_SIZES * intermediate
    return int(length * config.num_hidden_layers * width * model.dtype.itemsize)


def _backpropagate(
    model: Model, reading: Reading, weights: Tensor, tables: TableGradients, again: bool
) -> Tensor:
    """Nats of the targets, shape (num_targets,); leaves the gradients of their weighted sum on the tables."""
    reader, device = Reader(model), model.model.device
    ids, targets = reading.ids.to(device), reading.targets.to(device)
    with DifferentiableAttention(), recomputing(tables.decoder_layers()) if again else nullcontext():
        hidden = reader.read(ids.unsqueeze(0), keep=False)
        nll, of_rows = score_rows(reader, hidden[0, targets - 1].detach(), ids[targets], weights.to(device))
        gradient = torch.zeros_like(hidden)
        gradient[0, targets - 1] = of_rows
        torch.autograd.backward(hidden, gradient)
    return nll


def score_rows(reader: Reader, hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of each target, shape (n,), and the gradient of their weighted sum, of the shape of `hidden`.

    Args:
        hidden: the hidden state before each target, shape (n, hidden_size), without a graph.
        weights: of each target, shape (n,).
    """
    num_rows = max(FEWEST_ROWS, TILE_LOGITS // reader.vocabulary_size)
    parts, gradient = [], torch.empty_like(hidden)
    for start in range(0, len(targets), num_rows):
        tile = slice(start, start + num_rows)
        rows = hidden[tile].requires_grad_()
        logits = reader.logits(rows)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nll = cross_entropy(precise, targets[tile], reduction="none")
        (gradient[tile],) = torch.autograd.grad((nll * weights[tile].to(nll.dtype)).sum(), rows)
        parts.append(nll.detach())
    return torch.cat(parts), gradient
