"""Which rotary modules a model has, and which of their calls factors apply to."""

import pytest
import torch
from torch import Tensor, nn

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.rotary import OneSet, RotaryHook
from ropewalk.models.rotary_calls import RotaryCalls, find_rotary
from ropewalk.models.rotary_layout import learn_layout
from ropewalk.rope.frequencies import cos_sin

GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=100.0, original_length=16, num_layers=2)


class Rotary(nn.Module):
    """One as in most families."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.inv_freq = torch.from_numpy(GEOMETRY.inverse_frequencies()).float()

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq
        both = torch.cat((angles, angles), -1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)


class RotaryByType(Rotary):
    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str) -> tuple[Tensor, Tensor]:
        return super().forward(x, position_ids)


def layers(*rotaries: nn.Module) -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.Sequential(rotary) for rotary in rotaries)
    return model


def test_a_shared_rotary_and_those_of_layers_are_found() -> None:
    shared, first, second = Rotary(), Rotary(), Rotary()
    model = nn.Module()
    model.rotary_emb = shared
    found = find_rotary(model, "a family")
    assert (found.modules, found.layer_indices) == ((shared,), ())
    found = find_rotary(layers(first, nn.Linear(1, 1), second), "a family")
    assert (found.modules, found.layer_indices) == ((first, second), (0, 2))
    model.second = second
    with pytest.raises(ModelError, match="2 rotaries"):
        find_rotary(model, "a family", rope_theta=GEOMETRY.rope_theta)
    with pytest.raises(ModelError, match="rotary"):
        find_rotary(nn.Linear(1, 1), "a family")


@pytest.mark.parametrize("layer_type", [None, "full_attention"])
def test_calls_for_another_type_of_layer_have_no_inputs(layer_type: str | None) -> None:
    calls = RotaryCalls(modules=(RotaryByType(),), layer_type=layer_type)
    x, positions = torch.zeros(1), torch.arange(3)
    for args, kwargs in (
        ((x, positions, "full_attention"), {}),
        ((x,), {"position_ids": positions, "layer_type": "full_attention"}),
    ):
        inputs = calls.inputs(args, kwargs)
        assert inputs is not None
        assert inputs[0] is x
        assert inputs[1] is positions
    assert (calls.inputs((x, positions, "sliding_attention"), {}) is None) == (layer_type is not None)


@pytest.mark.parametrize("rows", [((2.0,) * 4,), ((2.0,) * 4, (3.0,) * 4)])
def test_the_rotary_of_each_layer_rotates_by_its_own_factors(rows: tuple[tuple[float, ...], ...]) -> None:
    model = layers(Rotary(), Rotary())
    calls = find_rotary(model, "a family")
    hook = RotaryHook(calls, learn_layout(calls.rotary, 4, "a family"), "a family")
    factors = RescaleFactors(geometry=GEOMETRY, target_length=64, rescale_factors=rows)
    x, positions = torch.zeros(1), torch.arange(9).unsqueeze(0)
    own = calls.rotary(x, positions)
    attached = list(hook.attach(()))
    hook.set(OneSet(factors))
    for index, rotary in enumerate(calls.modules):
        cos, sin = rotary(x, position_ids=positions)
        exact_cos, exact_sin = cos_sin(factors, positions, index)
        assert torch.equal(cos[..., :4], exact_cos.float())
        assert torch.equal(sin[..., 4:], exact_sin.float())
    for handle in attached:
        handle.remove()
    assert all(map(torch.equal, calls.rotary(x, positions), own))
