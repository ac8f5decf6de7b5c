"""Gradients with respect to rescale factors and attention factor, from those of cos and sin.

Every layer reads one table of cos and sin. While it is traced, the table is a leaf of the graph, which adds
up the gradients of all layers; a last step computes those of the factors from it. So no layer has float64
angles in its graph, and the derivative of the table is computed once instead of once per layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.near_far import NearFar
from ropewalk.models.rotary import Table, float64_device
from ropewalk.models.rotary_layout import leaves
from ropewalk.rope.frequencies import rescaled_angles, rescaled_far_angles


@dataclass(frozen=True, kw_only=True, eq=False)
class FactorGradients:
    """Derivatives of a value; float64. Also the tensors by which they are taken.

    Attributes:
        rescale_factors: by lambda_i, shape (num_pairs,).
        attention_factor: shape ().
        near_attention_factor: shape (); zero for plain factors.
    """

    rescale_factors: Tensor
    attention_factor: Tensor
    near_attention_factor: Tensor

    @classmethod
    def sources(cls, factors: RescaleFactors, device: torch.device) -> "FactorGradients":
        """The values of factors, as leaves with gradients of zero."""
        values = factors.rescale_factors[0], factors.attention_factor, factors.near_attention_factor
        leaves = [torch.tensor(value, dtype=torch.float64, device=device) for value in values]
        for leaf in leaves:
            leaf.requires_grad_().grad = torch.zeros_like(leaf)
        return cls(rescale_factors=leaves[0], attention_factor=leaves[1], near_attention_factor=leaves[2])

    def gradients(self) -> "FactorGradients":
        """What was added up on the leaves."""
        return FactorGradients(
            rescale_factors=self._of(self.rescale_factors),
            attention_factor=self._of(self.attention_factor),
            near_attention_factor=self._of(self.near_attention_factor),
        )

    @staticmethod
    def _of(leaf: Tensor) -> Tensor:
        assert leaf.grad is not None
        return leaf.grad


# cos and sin, float64, as a differentiable function of the sources.
Exact = Callable[[Tensor, FactorGradients], tuple[Tensor, Tensor]]


class TableGradients:
    """The gradients of the tables of an installed rotary while it is traced, and of further tables."""

    def __init__(self, model: Model, factors: RescaleFactors, tables: list[Table]) -> None:
        self._model = model
        self._factors = factors
        self._tables = tables
        self._further: list[tuple[Exact, Tensor, tuple[Tensor, Tensor]]] = []

    def cos_sin(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A further table, whose gradients are added: cos and sin of each pair, in no layout.

        Args:
            positions: of any shape.
            dtype: of the table.

        Returns:
            Two leaves of shape (*positions.shape, num_pairs).
        """
        return self._leaves(self._exact, positions, dtype)

    def far_cos_sin(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """As `cos_sin`, of the further rotation of the far part, in which attention computes it."""
        exact = torch.promote_types(self._model.model.dtype, torch.float32)
        return self._leaves(self._exact_far, positions, exact)

    def _leaves(self, exact: Exact, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            filled = exact(positions, self._sources(positions.device))
        cos, sin = (part.to(dtype).to(positions.device).requires_grad_() for part in filled)
        self._further.append((exact, positions, (cos, sin)))
        return cos, sin

    def decoder_layers(self) -> nn.ModuleList:
        """The layers that read the tables.

        Raises:
            ModelError: the model has no list of them beside its rotary.
        """
        layers = self._model.decoder_layers
        if layers is None:
            raise ModelError(
                f"A gradient of {self._model.name} at this length must be computed layer by layer, but it "
                f"has no list of layers beside its rotary: read shorter windows, or pass checkpoint=False."
            )
        return layers

    def gradient(self) -> FactorGradients:
        """Of the value that was backpropagated; zero where no gradient reached the tables."""
        sources = self._sources(self._tables[0].positions.device if self._tables else torch.device("cpu"))
        like = torch.empty(0, dtype=torch.float64, device=sources.attention_factor.device)
        for table in self._tables:
            if gradients := _gradients(table.leaves):  # float64, if the layout allows it
                filled = self._model.hook.layout.fill(*self._exact(table.positions, sources), like=like)
                _backward(leaves(filled), gradients)
        for exact, positions, pair in self._further:
            if gradients := _gradients(pair):
                _backward(exact(positions, sources), gradients)
        return sources.gradients()

    def _sources(self, device: torch.device) -> FactorGradients:
        return FactorGradients.sources(self._factors, float64_device(device))

    def _exact(self, positions: Tensor, sources: FactorGradients) -> tuple[Tensor, Tensor]:
        """cos and sin of the rotary: of near-far factors those of the near part."""
        positions, inverse = self._on_device(positions, sources)
        if self._factors.is_near_far:
            unscaled = torch.ones_like(inverse)
            return _times(rescaled_angles(positions, inverse, unscaled, 0), sources.near_attention_factor)
        radians = rescaled_angles(positions, inverse, sources.rescale_factors, self._factors.num_start_tokens)
        return _times(radians, sources.attention_factor)

    def _exact_far(self, positions: Tensor, sources: FactorGradients) -> tuple[Tensor, Tensor]:
        """cos and sin of the further rotation of the far part."""
        positions, inverse = self._on_device(positions, sources)
        radians = rescaled_far_angles(positions, inverse, sources.rescale_factors)
        return _times(radians, sources.attention_factor / sources.near_attention_factor)

    def _on_device(self, positions: Tensor, sources: FactorGradients) -> tuple[Tensor, Tensor]:
        device = sources.rescale_factors.device
        inverse = torch.from_numpy(self._factors.geometry.inverse_frequencies()).to(device)
        return positions.to(device), inverse


def _times(radians: Tensor, attention_factor: Tensor) -> tuple[Tensor, Tensor]:
    return radians.cos() * attention_factor, radians.sin() * attention_factor


@contextmanager
def traced_tables(model: Model, factors: RescaleFactors) -> Iterator[TableGradients]:
    """`model.using(factors)`, with tables that collect gradients.

    Raises:
        FactorsError: the factors are per layer, or as `Model.install`.
        ModelError: as `Model.install`.
    """
    if factors.per_layer:
        raise FactorsError(
            f"Gradients need one vector of factors for all layers, but {len(factors.rescale_factors)} were "
            f"given: give one."
        )
    with model.using(factors), model.hook.traced() as tables:
        gradients, installed = TableGradients(model, factors, tables), model.installed
        with installed.far.traced(gradients.far_cos_sin) if isinstance(installed, NearFar) else nullcontext():
            yield gradients


def _gradients(tensors: tuple[Tensor, ...]) -> list[Tensor | None]:
    """Of each tensor; empty if none has a gradient."""
    gradients = [tensor.grad for tensor in tensors]
    return gradients if any(gradient is not None for gradient in gradients) else []


def _backward(outputs: tuple[Tensor, ...], gradients: list[Tensor | None]) -> None:
    pairs = [(output, found) for output, found in zip(outputs, gradients, strict=True) if found is not None]
    torch.autograd.backward(
        [output for output, _ in pairs], [found.to(output.device, output.dtype) for output, found in pairs]
    )
