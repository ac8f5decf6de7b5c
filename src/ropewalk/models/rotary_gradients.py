"""From the cos and sin that layers were given back to the rescale factors and the attention factor.

Every layer reads one table. While it is traced, the table is a leaf on which the layers leave their
gradients; one step at the end leads from there to the factors. So no layer has float64 angles in its graph,
and the way from table to factors is walked once, not once a layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.modules import find_decoder_layers
from ropewalk.models.rotary import InstalledRotary, Table, find_installed, float64_device, installed
from ropewalk.models.rotary_layout import leaves
from ropewalk.rope.frequencies import rescaled_angles


class TableGradients:
    """What has been left on the tables of an installed rotary since the tracing began."""

    def __init__(self, rotary: InstalledRotary, tables: list[Table]) -> None:
        self._rotary = rotary
        self._tables = tables

    def decoder_layers(self, model: nn.Module) -> nn.ModuleList:
        """The layers that read the tables.

        Raises:
            ModelError: they do not stand beside the rotary.
        """
        try:
            return find_decoder_layers(model, self._rotary.rotary, self._rotary.description.geometry)
        except ModelError:
            raise ModelError(
                f"A gradient of {self._rotary.name} that long must be computed layer by layer, but no list "
                f"of its layers stands beside its rotary: read shorter windows, or pass checkpoint=False."
            ) from None

    def gradient(self) -> tuple[Tensor, Tensor]:
        """d / d lambda_i, shape (num_pairs,), and d / d attention factor, shape (); float64.

        They are derivatives of whatever was backpropagated; zero where nothing reached the tables.
        """
        factors = self._rotary.factors
        device = float64_device(self._tables[0].positions.device) if self._tables else torch.device("cpu")
        rescale_factors = torch.tensor(factors.rescale_factors[0], dtype=torch.float64, device=device)
        attention_factor = torch.tensor(factors.attention_factor, dtype=torch.float64, device=device)
        for source in (rescale_factors, attention_factor):
            source.requires_grad_().grad = torch.zeros_like(source)
        for table in self._tables:
            gradients = [leaf.grad for leaf in table.leaves]
            if any(gradient is not None for gradient in gradients):
                outputs = self._outputs(table, factors, rescale_factors, attention_factor)
                _backward(outputs, gradients)
        assert rescale_factors.grad is not None
        assert attention_factor.grad is not None
        return rescale_factors.grad, attention_factor.grad

    def _outputs(
        self, table: Table, factors: RescaleFactors, rescale_factors: Tensor, attention_factor: Tensor
    ) -> tuple[Tensor, ...]:
        """The table once more, in float64 where its layout allows, as a function of the two tensors."""
        positions = table.positions.to(rescale_factors.device)
        inverse = torch.from_numpy(factors.geometry.inverse_frequencies()).to(rescale_factors.device)
        turned = rescaled_angles(positions, inverse, rescale_factors, factors.num_start_tokens)
        like = torch.empty(0, dtype=torch.float64, device=rescale_factors.device)
        cos, sin = turned.cos() * attention_factor, turned.sin() * attention_factor
        return leaves(self._rotary.layout.fill(cos, sin, like=like))


@contextmanager
def traced_tables(
    model: nn.Module,
    factors: RescaleFactors,
    *,
    original_length: int | None = None,
    full_attention: bool = False,
) -> Iterator[TableGradients]:
    """`installed`, with tables that gather gradients; afterwards the model is as it was.

    Args as in `install`.

    Raises:
        FactorsError: the factors are per layer, or as in `install`.
        ModelError: as in `install`.
    """
    if factors.per_layer:
        raise FactorsError(
            f"Gradients are of one vector of factors for all layers, but {len(factors.rescale_factors)} "
            f"vectors were given: give one."
        )
    with installed(model, factors, original_length=original_length, full_attention=full_attention):
        rotary = find_installed(model)
        assert rotary is not None
        with rotary.traced() as tables:
            yield TableGradients(rotary, tables)


def _backward(outputs: tuple[Tensor, ...], gradients: list[Tensor | None]) -> None:
    pairs = [(output, found) for output, found in zip(outputs, gradients, strict=True) if found is not None]
    torch.autograd.backward(
        [output for output, _ in pairs], [found.to(output.device, output.dtype) for output, found in pairs]
    )
