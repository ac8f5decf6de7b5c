"""Gradients with respect to rescale factors and attention factor, from those of cos and sin.

Every layer reads one table of cos and sin. While it is traced, the table is a leaf of the graph, which adds
up the gradients of all layers; a last step computes those of the factors from it. So no layer has float64
angles in its graph, and the derivative of the table is computed once instead of once per layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.rotary import Table, float64_device
from ropewalk.models.rotary_layout import leaves
from ropewalk.rope.frequencies import cos_sin, rescaled_angles


class TableGradients:
    """The gradients of the tables of an installed rotary while it is traced, and of further tables."""

    def __init__(self, model: Model, factors: RescaleFactors, tables: list[Table]) -> None:
        self._model = model
        self._factors = factors
        self._tables = tables
        self._further: list[tuple[Tensor, tuple[Tensor, Tensor]]] = []

    def cos_sin(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A further table, whose gradients are added: cos and sin of each pair, in no layout.

        Args:
            positions: of any shape.
            dtype: of the table.

        Returns:
            Two leaves of shape (*positions.shape, num_pairs).
        """
        exact = cos_sin(self._factors, positions.to(float64_device(positions.device)))
        cos, sin = (part.to(dtype).to(positions.device).requires_grad_() for part in exact)
        self._further.append((positions, (cos, sin)))
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

    def gradient(self) -> tuple[Tensor, Tensor]:
        """d / d lambda_i, shape (num_pairs,), and d / d attention factor, shape (); float64.

        The derivatives of the value that was backpropagated; zero where no gradient reached the tables.
        """
        factors = self._factors
        device = float64_device(self._tables[0].positions.device) if self._tables else torch.device("cpu")
        rescale_factors = torch.tensor(factors.rescale_factors[0], dtype=torch.float64, device=device)
        attention_factor = torch.tensor(factors.attention_factor, dtype=torch.float64, device=device)
        sources = rescale_factors, attention_factor
        for source in sources:
            source.requires_grad_().grad = torch.zeros_like(source)
        for table in self._tables:
            if gradients := _gradients(table.leaves):
                like = torch.empty(0, dtype=torch.float64, device=device)  # float64, if the layout allows it
                filled = self._model.hook.layout.fill(*self._exact(table.positions, *sources), like=like)
                _backward(leaves(filled), gradients)
        for positions, pair in self._further:
            if gradients := _gradients(pair):
                _backward(self._exact(positions, *sources), gradients)
        assert rescale_factors.grad is not None
        assert attention_factor.grad is not None
        return rescale_factors.grad, attention_factor.grad

    def _exact(
        self, positions: Tensor, rescale_factors: Tensor, attention_factor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """cos and sin as a differentiable function of the two tensors, float64."""
        positions = positions.to(rescale_factors.device)
        inverse = torch.from_numpy(self._factors.geometry.inverse_frequencies()).to(rescale_factors.device)
        radians = rescaled_angles(positions, inverse, rescale_factors, self._factors.num_start_tokens)
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
        yield TableGradients(model, factors, tables)


def _gradients(tensors: tuple[Tensor, ...]) -> list[Tensor | None]:
    """Of each tensor; empty if none has a gradient."""
    gradients = [tensor.grad for tensor in tensors]
    return gradients if any(gradient is not None for gradient in gradients) else []


def _backward(outputs: tuple[Tensor, ...], gradients: list[Tensor | None]) -> None:
    pairs = [(output, found) for output, found in zip(outputs, gradients, strict=True) if found is not None]
    torch.autograd.backward(
        [output for output, _ in pairs], [found.to(output.device, output.dtype) for output, found in pairs]
    )
