"""The layout in which a rotary returns cos and sin, learnt from its output and not from its family.

Families compute the same angles and arrange them in different ways: halves repeated (a b a b), each value
repeated (a a b b), not repeated, as complex numbers, in float32 or cast. The forward of the rotary runs once
with frequencies that all differ. This identifies each column of its output as the cos or sin of one pair, so
that it can be filled from an exact table.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.rotary_calls import RotaryCalls

# Largest deviation of a column from its formula: float32 angles at the probed positions are within 1e-4.
TOLERANCE = 1e-3
NUM_MATCHED_POSITIONS = 128
NUM_CHECKED_POSITIONS = 24
FARTHEST_CHECKED_POSITION = 1000
# What the forward of a family may raise for arguments that it does not expect.
FOREIGN_ERRORS = (TypeError, AttributeError, LookupError, RuntimeError, ValueError, ArithmeticError)
INPUT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One tensor that a rotary returns, described column by column of its last dimension.

    Attributes:
        columns: for each column, its index in [cos of every pair, sin of every pair], or the next index for
            the cos of a pair that does not rotate and the one after that for its sin.
        signs: for each column, 1 or -1.
        is_complex: whether columns alternate between the real and imaginary parts of complex numbers.
        dtypes: the returned dtype, by the dtype of the hidden states.
    """

    columns: tuple[int, ...]
    signs: tuple[float, ...]
    is_complex: bool
    dtypes: dict[torch.dtype, torch.dtype]

    def fill(self, table: Tensor, *, like: Tensor) -> Tensor:
        filled = table.index_select(-1, _index(self.columns, table.device))
        if -1.0 in self.signs:
            filled = filled * torch.tensor(self.signs, dtype=table.dtype, device=table.device)
        if self.is_complex:
            filled = torch.view_as_complex(filled.reshape(*filled.shape[:-1], -1, 2).contiguous())
        return filled.to(dtype=self.dtypes[like.dtype]).to(device=like.device)


@lru_cache(maxsize=64)
def _index(columns: tuple[int, ...], device: torch.device) -> Tensor:
    """The columns as a tensor; cached, because creating it takes longer than using it for one token."""
    with torch.inference_mode(False):
        return torch.tensor(columns, device=device)


@dataclass(frozen=True, kw_only=True)
class RotaryLayout:
    """The output of a rotary's forward, in terms of the cos and sin of each pair.

    Attributes:
        leaves: the tensors returned, in order.
        returns_tuple: whether the output is a tuple of them, or a single tensor.
        merges_axes: whether it also takes positions in time, height and width, of shape (3, rows, tokens).
        has_still_pairs: whether it also returns the cos and sin of pairs that do not rotate (proportional
            RoPE).
    """

    num_pairs: int
    leaves: tuple[Leaf, ...]
    returns_tuple: bool
    merges_axes: bool = False
    has_still_pairs: bool = False

    def one_position(self, positions: Tensor, name: str) -> Tensor:
        """Positions of shape (rows, tokens), from the same or from positions for three axes.

        Raises:
            ModelError: the three positions of a token differ, as in an image.
        """
        if not self.merges_axes or positions.dim() < 3:
            return positions
        first = positions[0]
        if not torch.equal(positions, first.expand_as(positions)):
            raise ModelError(
                f"{name} got tokens whose positions in time, height and width differ (an image or a video), "
                f"but factors are for text: give text only."
            )
        return first

    def fill(self, cos: Tensor, sin: Tensor, *, like: Tensor) -> Any:
        """The output of the rotary, computed from exact cos and sin.

        Pairs that do not rotate have the cos and sin of angle 0, times the attention factor.

        Args:
            cos, sin: (*positions.shape, num_pairs), float64; gradients flow through.
            like: the hidden states; the result is cast to the dtype that the rotary returns for them.
        """
        still = (torch.hypot(cos[..., :1], sin[..., :1]), torch.zeros_like(sin[..., :1]))
        table = torch.cat((cos, sin, *(still if self.has_still_pairs else ())), dim=-1)
        outputs = tuple(leaf.fill(table, like=like) for leaf in self.leaves)
        return outputs if self.returns_tuple else outputs[0]


def layout_of(calls: RotaryCalls, geometry: RopeGeometry, name: str) -> RotaryLayout:
    """The layout of the calls that factors apply to.

    Raises:
        ModelError: as `learn_layout`.
    """
    return learn_layout(
        calls.rotary,
        geometry.num_pairs,
        name,
        layer_type=calls.layer_type,
        num_still_pairs=geometry.num_still_pairs,
    )


def learn_layout(
    rotary: nn.Module, num_pairs: int, name: str, *, layer_type: str | None = None, num_still_pairs: int = 0
) -> RotaryLayout:
    """Run a copy of a rotary module, and verify the layout at other positions.

    Args:
        layer_type: the layer type that the rotary is called for, if it has such a parameter.
        num_still_pairs: pairs after the `num_pairs` that do not rotate (`RopeGeometry.num_still_pairs`).

    Raises:
        ModelError: it does not return the cos and sin of position times frequency, pair by pair.
    """
    probe = _Probe(rotary, num_pairs, name, layer_type, num_still_pairs)
    merges_axes = probe.merges_axes()
    positions = torch.arange(4 * num_pairs + 8).unsqueeze(0)
    outputs = probe.outputs(positions)
    table = probe.table(positions)
    layout = RotaryLayout(
        num_pairs=num_pairs,
        leaves=tuple(_learn_leaf(probe, index, output, table) for index, output in enumerate(outputs)),
        returns_tuple=probe.returns_tuple,
        merges_axes=merges_axes,
        has_still_pairs=num_still_pairs > 0,
    )
    _verify(layout, probe)
    return layout


def bare_forward(
    rotary: nn.Module,
    positions: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    layer_type: str | None = None,
) -> Any:
    """The output of the class's own forward on this CPU module, without hooks."""
    hidden_states = torch.zeros(*positions.shape, 1, dtype=dtype)
    of_type = {} if layer_type is None else {"layer_type": layer_type}
    with torch.no_grad():
        return type(rotary).forward(rotary, hidden_states, positions, **of_type)


def buffer_name(name: str, layer_type: str | None) -> str:
    """The name of a rotary's buffer; a rotary with layer types has one buffer per type."""
    return name if layer_type is None else f"{layer_type}_{name}"


class _Probe:
    """A copy of a rotary with frequencies that all differ, and without rules that change them."""

    def __init__(
        self, rotary: nn.Module, num_pairs: int, name: str, layer_type: str | None, num_still_pairs: int
    ) -> None:
        self.layer_type = layer_type
        self.name = name
        self.num_pairs = num_pairs
        self.has_still_pairs = num_still_pairs > 0
        self.returns_tuple = False
        self.scale = 1.0  # of cos, as last returned
        # Spread over (0, pi): over 4 * num_pairs positions, no two of these cosines are similar.
        self.frequencies = (torch.arange(num_pairs, dtype=torch.float64) + 0.5) * (3.0 / num_pairs)
        self.module = copy.deepcopy(rotary).cpu()
        module: Any = self.module
        frequencies = torch.cat((self.frequencies, torch.zeros(num_still_pairs))).to(torch.float32)
        setattr(module, buffer_name("inv_freq", layer_type), frequencies)
        # The rules of dynamic and longrope recompute frequencies by rotary type; Phi-MoE does so in every
        # call.
        module.rope_type = "default" if layer_type is None else {**module.rope_type, layer_type: "default"}
        module.rope_init_fn = lambda *_, **__: (frequencies, 1.0)

    def refuse(self, reason: str) -> ModelError:
        return ModelError(f"{self.name} can't be extended: {reason}.")

    def outputs(self, positions: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        """The tensors returned at `positions`, which include 0, divided by the cos at 0."""
        try:
            returned = bare_forward(self.module, positions, dtype, layer_type=self.layer_type)
        except FOREIGN_ERRORS as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.refuse(
                f"its rotary can't be called with hidden states and positions ({reason})"
            ) from None
        self.returns_tuple = isinstance(returned, (tuple, list))
        outputs = tuple(returned) if self.returns_tuple else (returned,)
        if not outputs or not all(isinstance(output, Tensor) for output in outputs):
            raise self.refuse("its rotary does not return tensors of cos and sin")
        if any(output.shape[:-1] != positions.shape for output in outputs):
            shapes = ", ".join(str(tuple(output.shape)) for output in outputs)
            raise self.refuse(f"its rotary returns shapes {shapes} for positions {tuple(positions.shape)}")
        self.scale = max(float(output[positions == 0].abs().max()) for output in outputs)
        return tuple(output / self.scale for output in outputs)

    def merges_axes(self) -> bool:
        """Whether it also takes positions in time, height and width (mrope), and merges them.

        Raises:
            ModelError: tokens with three equal positions, as in text, do not rotate as with one position.
        """
        positions = torch.arange(NUM_CHECKED_POSITIONS).unsqueeze(0)
        alone = self.outputs(positions)
        try:
            merged = leaves(bare_forward(self.module, positions.expand(3, 1, -1), layer_type=self.layer_type))
        except FOREIGN_ERRORS:
            return False
        if all(tuple(output.shape[:-1]) == (3, *positions.shape) for output in merged):
            return False
        same_shapes = [output.shape for output in merged] == [output.shape for output in alone]
        if not same_shapes or any(
            float((ours - theirs / self.scale).abs().max()) > TOLERANCE
            for ours, theirs in zip(alone, merged, strict=True)
        ):
            raise self.refuse("its rotary takes several positions per token (mrope), which do not act as one")
        return True

    def table(self, positions: Tensor) -> Tensor:
        """[cos, sin] of each pair, then cos and sin of a pair that does not rotate, if there is one."""
        angles = positions.to(torch.float64).unsqueeze(-1) * self.frequencies
        still = torch.zeros_like(angles[..., : int(self.has_still_pairs)])
        return torch.cat((angles.cos(), angles.sin(), still.cos(), still.sin()), dim=-1)


def _learn_leaf(probe: _Probe, index: int, output: Tensor, table: Tensor) -> Leaf:
    """Match every column to the nearest of cos, sin and their negatives."""
    real = torch.view_as_real(output).flatten(-2) if output.is_complex() else output
    learnt, known = real[0].to(torch.float64).T, table[0].T
    signed = torch.cat((known, -known))
    # A few positions suffice to find the nearest; all positions measure the distance.
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(learnt.shape[1], generator=generator)[:NUM_MATCHED_POSITIONS]
    nearest = torch.cdist(learnt[:, some], signed[:, some]).argmin(dim=1)
    deviation = (learnt - signed[nearest]).abs().amax(dim=1)
    if float(deviation.max()) > TOLERANCE:
        column = int(deviation.argmax())
        raise probe.refuse(f"column {column} of its rotary is neither the cos nor the sin of one pair")
    zero = torch.zeros(1, 1, dtype=torch.long)
    dtypes = {dtype: probe.outputs(zero, dtype)[index].dtype for dtype in INPUT_DTYPES}
    return Leaf(
        columns=tuple(int(column) % len(known) for column in nearest),
        signs=tuple(1.0 if int(column) < len(known) else -1.0 for column in nearest),
        is_complex=output.is_complex(),
        dtypes=dtypes,
    )


def _verify(layout: RotaryLayout, probe: _Probe) -> None:
    """Compare the layout with the rotary at other positions and rows than it was learnt from."""
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(FARTHEST_CHECKED_POSITION, (2, NUM_CHECKED_POSITIONS), generator=generator)
    positions[:, 0] = 0
    cos, sin = probe.table(positions)[..., : 2 * layout.num_pairs].chunk(2, dim=-1)
    filled = layout.fill(cos, sin, like=torch.zeros(1))
    originals = probe.outputs(positions)
    for original, leaf in zip(originals, filled if layout.returns_tuple else (filled,), strict=True):
        if float((original - leaf).abs().max()) > TOLERANCE:
            raise probe.refuse("its rotary does not follow the layout that was learnt from it")
    used = {column for leaf in layout.leaves for column in leaf.columns}
    if not used >= set(range(2 * layout.num_pairs)):
        raise probe.refuse(f"its rotary does not rotate all of {layout.num_pairs} pairs")


def leaves(output: Any) -> tuple[Tensor, ...]:
    """The tensors in the output of a rotary."""
    return tuple(output) if isinstance(output, (tuple, list)) else (output,)
