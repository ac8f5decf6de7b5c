"""The forward hook that makes a model rotate by given factors.

Families with a model-level rotary compute cos and sin once and pass them to every layer. While factors are
installed, a forward hook on that rotary replaces its output: the same layout, filled from the exact table of
`rope.frequencies`. The type of the rotary is then `default`, which disables the rules of transformers that
change the frequencies with the length of a text.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.replaced_attribute import ReplacedAttribute
from ropewalk.models.rotary_calls import RotaryCalls
from ropewalk.models.rotary_layout import RotaryLayout, leaves
from ropewalk.rope.frequencies import cos_sin

if TYPE_CHECKING:
    from ropewalk.models.model import Model

DEFAULT_TYPE = "default"
Function = TypeVar("Function", bound=Callable[..., Any])


def not_compiled(function: Function) -> Function:
    """Exclude a function from `torch.compile`, which would make the stored table a constant of the graph."""
    return torch.compiler.disable(function)  # type: ignore[no-untyped-call,no-any-return]


def guard_hooks() -> None:
    """Make `torch.compile` recompile when hooks change; by default, compiled code keeps its first hooks.

    This is a setting of the process, for models that are compiled later.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False


class Attachment(Protocol):
    """A change of a model that can be removed: the handle of a hook, or a replaced attribute."""

    def remove(self) -> None: ...


class CosSin(Protocol):
    """Computes cos and sin for positions."""

    def cos_sin(self, positions: Tensor, layer_index: int) -> tuple[Tensor, Tensor]:
        """cos and sin, float64, each of shape (*positions.shape, num_pairs)."""
        ...


class Installable(Protocol):
    """What `Model.install` takes: one set of factors (`OneSet`), or a factor set (`runtime.rotary`).

    Attributes:
        factors: the factors whose geometry is compared with the model's; for a factor set, the longest entry.
        per_layer: whether layers rotate by different factors.
    """

    @property
    def factors(self) -> RescaleFactors: ...

    @property
    def per_layer(self) -> bool: ...

    def choose(self, positions: Tensor) -> CosSin | None:
        """The source of cos and sin for tokens at these positions, of shape (rows or 1, tokens).

        None for what the model's own rotary returns.
        """
        ...

    def attach(self, model: "Model") -> Iterable[Attachment]:
        """Attach the further hooks and attributes that it needs."""
        ...


class OneSet:
    """One set of factors for all texts."""

    def __init__(self, factors: RescaleFactors) -> None:
        self.factors = factors
        self.per_layer = factors.per_layer

    def choose(self, positions: Tensor) -> CosSin:
        return self

    def cos_sin(self, positions: Tensor, layer_index: int) -> tuple[Tensor, Tensor]:
        return cos_sin(self.factors, positions, layer_index)

    def attach(self, model: "Model") -> Iterable[Attachment]:
        return ()


class RotaryHook:
    """Replaces the output of a rotary, for the calls that factors apply to.

    The last table is cached, because a search reads the same positions thousands of times. It is used again
    only for equal positions, dtype and device, and never after the factors change.

    Attributes:
        calls, layout: the calls that factors apply to, and the layout of cos and sin in their output.
        name: the model's name in errors.
        installed: what is installed now, None for the base model.
    """

    def __init__(self, calls: RotaryCalls, layout: RotaryLayout, name: str) -> None:
        self.calls = calls
        self.layout = layout
        self.name = name
        self.installed: Installable | None = None
        self._table: Table | None = None
        self._tables: Any = WeakIdKeyDictionary()
        self._traced: list[Table] | None = None

    def set(self, installed: Installable | None) -> None:
        """Rotate by `installed` from now on; None for the base model."""
        self.installed = installed
        self._table = None

    def attach(self, layers: Iterable[nn.Module]) -> Iterator[Attachment]:
        """Register the hooks.

        Args:
            layers: the decoder layers, if they rotate by different factors and share a rotary; else empty.
        """
        for module, index in zip(self.calls.modules, self.calls.layer_indices or repeat(0), strict=False):
            if hasattr(module, "rope_type"):
                yield ReplacedAttribute(module, "rope_type", self._without_rule(module.rope_type))
            yield module.register_forward_hook(partial(self._after_rotary, index), with_kwargs=True)
        for index, layer in enumerate(layers):
            yield layer.register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True)

    def _without_rule(self, rope_type: Any) -> Any:
        if isinstance(rope_type, dict):
            return {**rope_type, self.calls.layer_type: DEFAULT_TYPE}
        return DEFAULT_TYPE

    @contextmanager
    def traced(self) -> Iterator[list["Table"]]:
        """Inside the `with`, tables are leaves that require gradients; yields the list of tables."""
        self._table, self._traced = None, []
        try:
            yield self._traced
        finally:
            self._table = self._traced = None

    @not_compiled
    def _after_rotary(
        self, layer_index: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        inputs = self.calls.inputs(args, kwargs)
        installed = self.installed
        if inputs is None or installed is None:
            return output
        hidden_states, positions = inputs
        table = self._table_for(installed, hidden_states, self.layout.one_position(positions, self.name))
        if table is None:
            return output
        if not installed.per_layer:
            return table.outputs
        if self.calls.layer_indices:
            return self._fill(table, layer_index)
        self._tables[table.leaves[0]] = table
        return table.outputs

    @not_compiled
    def _before_layer(
        self, layer_index: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Pass a layer its own cos and sin instead of those of layer 0."""
        swapped = tuple(self._for_layer(value, layer_index) for value in args)
        named = {name: self._for_layer(value, layer_index) for name, value in kwargs.items()}
        return swapped, named

    def _for_layer(self, value: Any, layer_index: int) -> Any:
        """The layer's own table, if `value` is what this hook returned from the rotary; else `value`."""
        leaf = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(leaf, Tensor) or leaf not in self._tables:
            return value
        # Computed when the layer runs, and not stored: the tables of all layers may not fit in memory.
        return self._fill(self._tables[leaf], layer_index)

    def _table_for(self, installed: Installable, hidden_states: Tensor, positions: Tensor) -> "Table | None":
        chosen, table = installed.choose(positions), self._table
        if chosen is None:
            return None
        if table is not None and table.chosen is chosen and table.serves(hidden_states, positions):
            return table
        # Not in inference mode: its tensors could not be used in training later.
        with torch.inference_mode(False):
            like = torch.empty(0, dtype=hidden_states.dtype, device=hidden_states.device)
            table = Table(chosen, positions.clone(), like)
            table.set_outputs(self._fill(table, layer_index=0))
        self._table = table
        if self._traced is not None:
            self._traced.append(table.require_gradients())
        return table

    def _fill(self, table: "Table", layer_index: int) -> Any:
        with torch.inference_mode(False):
            positions = table.positions.to(float64_device(table.positions.device))
            return self.layout.fill(*table.chosen.cos_sin(positions, layer_index), like=table.like)


class Table:
    """The last output of a rotary, with its inputs.

    Attributes:
        chosen: what computed cos and sin.
        positions: (rows or 1, tokens).
        like: an empty tensor of the dtype and device of the hidden states.
        outputs: the output of the rotary.
    """

    outputs: Any

    def __init__(self, chosen: CosSin, positions: Tensor, like: Tensor) -> None:
        self.chosen = chosen
        self.positions = positions
        self.like = like

    def set_outputs(self, outputs: Any) -> None:
        self.outputs = outputs
        self._versions = self._current_versions()

    def serves(self, hidden_states: Tensor, positions: Tensor) -> bool:
        """Whether a call with these inputs has the same output."""
        return (
            hidden_states.dtype == self.like.dtype
            and hidden_states.device == self.like.device
            and positions.device == self.positions.device
            and torch.equal(positions, self.positions)
            and self._versions == self._current_versions()
        )

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return leaves(self.outputs)

    def require_gradients(self) -> "Table":
        for leaf in self.leaves:
            leaf.requires_grad_()
        return self

    def _current_versions(self) -> list[int]:
        """The versions of the tensors; a family that writes into the output of its rotary changes them."""
        return [leaf._version for leaf in self.leaves]


def float64_device(device: torch.device) -> torch.device:
    """The device for the exact table: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device
