"""Layouts are learnt from what a rotary returns, verified elsewhere, and refused where they do not hold."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ropewalk.errors import ModelError
from ropewalk.models.rotary_layout import learn_layout

NUM_PAIRS = 6
Arrange = Callable[[Tensor, Tensor], Any]


class Rotary(nn.Module):
    """A family's rotary whose layout is an argument."""

    def __init__(self, arrange: Arrange) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 100.0 ** -(torch.arange(NUM_PAIRS) / NUM_PAIRS), persistent=False)
        self.arrange = arrange
        self.attention_scaling = 1.25

    def forward(self, x: Tensor, position_ids: Tensor) -> Any:
        angles = position_ids[..., None].float() * self.inv_freq.float()
        scale = self.attention_scaling
        outputs = self.arrange(angles.cos() * scale, angles.sin() * scale)
        return tuple(part.to(x.dtype) for part in outputs) if isinstance(outputs, tuple) else outputs


def halves(cos: Tensor, sin: Tensor) -> Any:
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


def neighbours(cos: Tensor, sin: Tensor) -> Any:
    return cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)


def once(cos: Tensor, sin: Tensor) -> Any:
    return cos, sin


def one_complex(cos: Tensor, sin: Tensor) -> Any:
    return torch.complex(cos, sin)


def signed_and_reversed(cos: Tensor, sin: Tensor) -> Any:
    return (torch.cat((-sin, sin), -1), cos.flip(-1))


LAYOUTS = [halves, neighbours, once, one_complex, signed_and_reversed]


def leaves(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


@pytest.mark.parametrize("arrange", LAYOUTS)
def test_a_learnt_layout_is_filled_as_the_original_fills_it(arrange: Arrange) -> None:
    layout = learn_layout(Rotary(arrange), NUM_PAIRS, "a family")
    cos, sin = torch.rand(2, 3, 5, NUM_PAIRS, dtype=torch.float64).unbind()
    filled = layout.fill(cos, sin, like=torch.zeros(1))
    expected = arrange(cos, sin)
    for ours, theirs in zip(leaves(filled), leaves(expected), strict=True):
        assert ours.dtype == (torch.complex64 if theirs.is_complex() else torch.float32)
        assert torch.equal(ours, theirs.to(ours.dtype))


def test_the_dtype_is_the_one_that_the_original_returns() -> None:
    class InFloat32(Rotary):
        def forward(self, x: Tensor, position_ids: Tensor) -> Any:
            return super().forward(x.float(), position_ids)

    table = torch.rand(1, 2, NUM_PAIRS, dtype=torch.float64)
    like = torch.zeros(1, dtype=torch.bfloat16)
    follows, keeps = (learn_layout(kind(halves), NUM_PAIRS, "a family") for kind in (Rotary, InFloat32))
    assert follows.fill(table, table, like=like)[0].dtype == torch.bfloat16
    assert keeps.fill(table, table, like=like)[0].dtype == torch.float32


def test_probing_leaves_the_module_as_it_was() -> None:
    rotary = Rotary(halves)
    before, names = rotary.inv_freq.clone(), set(rotary.__dict__)
    learn_layout(rotary, NUM_PAIRS, "a family")
    assert torch.equal(rotary.inv_freq, before)
    assert set(rotary.__dict__) == names


def test_gradients_flow_through_a_filled_layout() -> None:
    layout = learn_layout(Rotary(signed_and_reversed), NUM_PAIRS, "a family")
    cos = torch.rand(1, 2, NUM_PAIRS, dtype=torch.float64, requires_grad=True)
    sum(leaf.sum() for leaf in layout.fill(cos, cos, like=torch.zeros(1))).backward()
    assert cos.grad is not None
    assert cos.grad.abs().sum() > 0


def mixed_pairs(cos: Tensor, sin: Tensor) -> Any:
    return halves((cos + cos.flip(-1)) / 2, sin)


def without_last_pair(cos: Tensor, sin: Tensor) -> Any:
    last = torch.zeros(NUM_PAIRS, dtype=torch.bool)
    last[-1] = True
    return halves(cos.where(~last, cos[..., :1]), sin)


def summed_over_tokens(cos: Tensor, sin: Tensor) -> Any:
    return cos.sum(1), sin.sum(1)


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (mixed_pairs, "column"),
        (without_last_pair, "pairs"),
        (summed_over_tokens, "shapes"),
        (lambda cos, sin: "cos and sin", "tensors"),
    ],
)
def test_what_is_no_cos_and_sin_of_each_pair_is_refused(arrange: Arrange, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        learn_layout(Rotary(arrange), NUM_PAIRS, "a family")


def test_a_layout_that_changes_with_the_position_is_refused() -> None:
    class Clipped(Rotary):
        """Turns as it should where it is learnt, and not where it is verified."""

        def forward(self, x: Tensor, position_ids: Tensor) -> Any:
            return super().forward(x, position_ids.clamp(max=100))

    with pytest.raises(ModelError, match="layout"):
        learn_layout(Clipped(halves), NUM_PAIRS, "a family")


def test_a_layout_that_mixes_rows_is_refused() -> None:
    class FirstRow(Rotary):
        def forward(self, x: Tensor, position_ids: Tensor) -> Any:
            return super().forward(x, position_ids[:1].expand_as(position_ids))

    with pytest.raises(ModelError, match="layout"):
        learn_layout(FirstRow(halves), NUM_PAIRS, "a family")


class ByAxis(Rotary):
    """Takes a position for each of time, height and width, and a pair turns by one of them."""

    def forward(self, x: Tensor, position_ids: Tensor) -> Any:
        if position_ids.dim() == 3:
            angles = position_ids[..., None].float() * self.inv_freq.float()
            merged = torch.stack([angles[pair % 3, ..., pair] for pair in range(NUM_PAIRS)], -1)
            return halves(merged.cos() * 1.25, merged.sin() * 1.25)
        return super().forward(x, position_ids)


def test_a_position_for_each_axis_is_one_where_they_are_equal() -> None:
    layout = learn_layout(ByAxis(halves), NUM_PAIRS, "a family")
    assert layout.merges_axes
    positions = torch.arange(5).expand(2, 5)
    assert torch.equal(layout.one_position(positions.expand(3, 2, 5), "a family"), positions)
    assert torch.equal(layout.one_position(positions, "a family"), positions)
    image = torch.stack((positions, positions + 1, positions))
    with pytest.raises(ModelError, match="height"):
        layout.one_position(image, "a family")
    assert not learn_layout(Rotary(halves), NUM_PAIRS, "a family").merges_axes


def test_axes_that_do_not_act_as_one_are_refused() -> None:
    class Summed(Rotary):
        def forward(self, x: Tensor, position_ids: Tensor) -> Any:
            return super().forward(x, position_ids.sum(0) if position_ids.dim() == 3 else position_ids)

    with pytest.raises(ModelError, match="mrope"):
        learn_layout(Summed(halves), NUM_PAIRS, "a family")


@pytest.mark.parametrize("arrange", [halves, neighbours, once])
def test_pairs_that_do_not_rotate_have_the_angle_0(arrange: Arrange) -> None:
    num_rotating = NUM_PAIRS - 2
    layout = learn_layout(Rotary(arrange), num_rotating, "a family", num_still_pairs=2)
    angles, scale = torch.rand(3, 5, num_rotating, dtype=torch.float64), 1.25
    cos, sin = angles.cos() * scale, angles.sin() * scale
    filled = layout.fill(cos, sin, like=torch.zeros(1))
    expected = arrange(
        torch.cat((cos, torch.full_like(cos[..., :2], scale)), -1),
        torch.cat((sin, torch.zeros_like(sin[..., :2])), -1),
    )
    for ours, theirs in zip(leaves(filled), leaves(expected), strict=True):
        assert torch.equal(ours, theirs.to(ours.dtype))


def test_a_rotary_that_asks_for_more_is_refused() -> None:
    class ByLayerType(Rotary):
        def forward(self, x: Tensor, position_ids: Tensor, layer_type: str) -> Any:  # type: ignore[override]
            return super().forward(x, position_ids)

    with pytest.raises(ModelError, match="positions"):
        learn_layout(ByLayerType(halves), NUM_PAIRS, "a family")
