"""The rotary modules of a model, and which of their calls factors apply to.

Modules are found by their class, signature and path in the module tree, never by the name of a family.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from ropewalk.errors import ModelError


@dataclass(frozen=True, kw_only=True, eq=False)
class RotaryCalls:
    """The calls of rotary modules that factors apply to; other calls do not change.

    A model has one rotary for all layers (most families), one that is called once for each type of layer,
    with the type as its argument `layer_type` (Gemma 3, OLMo 3), one for each theta (Granite with sliding
    layers), or one in each attention layer (Moshi).

    Attributes:
        modules: the rotary, or the rotaries of the layers in their order.
        layer_indices: for each module, the layer that it belongs to; empty if the layers share one.
        layer_type: the argument `layer_type` of these calls, None if the rotary has no such parameter.
        also_in_layers: whether layers also have their own rotaries (DeepSeek-V4), so that all layers must
            rotate by the same factors.
    """

    modules: tuple[nn.Module, ...]
    layer_indices: tuple[int, ...] = ()
    layer_type: str | None = None
    also_in_layers: bool = False

    def __post_init__(self) -> None:
        assert self.modules, "a model that can be extended has a rotary"
        assert len(self.layer_indices) in (0, len(self.modules))

    @property
    def rotary(self) -> nn.Module:
        """The module whose layout is learnt; the modules of other layers have the same layout."""
        return self.modules[0]

    def inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """(hidden states, position ids) of a call, or None if factors do not apply to it."""
        module_class: Any = type(self.rotary)
        names = forward_parameters(module_class)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if self.layer_type is not None and given.get("layer_type") != self.layer_type:
            return None
        return given[names[0]], given["position_ids"]


def find_rotary(
    model: nn.Module, name: str, layer_type: str | None = None, rope_theta: float | None = None
) -> RotaryCalls:
    """The rotary of the text decoder, for all layers or for those of one type.

    Args:
        layer_type: the layers that factors are for, None for all.
        rope_theta: theta of these layers, by which one of several rotaries is chosen.

    Raises:
        ModelError: there is no rotary, or there are several that can't be distinguished.
    """
    rotaries = {path: module for path, module in text_decoder(model).named_modules() if is_rotary(module)}
    if not rotaries:
        raise ModelError(f"{name} can't be extended: it has no rotary module whose output could be replaced.")
    shared = {path: module for path, module in rotaries.items() if _layer_index(path) is None}
    if all(map(_knows_layer_types, rotaries.values())):
        return RotaryCalls(
            modules=tuple(rotaries.values()),
            layer_type=layer_type,
            also_in_layers=len(shared) < len(rotaries),
        )
    if not shared:
        return RotaryCalls(modules=tuple(rotaries.values()), layer_indices=tuple(map(_layer, rotaries)))
    if len(rotaries) > 1:
        shared = {path: module for path, module in rotaries.items() if _theta(module) == rope_theta}
    if not shared or any(_layer_index(path) is not None for path in shared):
        raise ModelError(
            f"{name} can't be extended: it has {len(rotaries)} rotaries, and which of them its layers use is "
            f"not known."
        )
    return RotaryCalls(modules=tuple(shared.values()))


def find_decoder_layers(model: nn.Module, rotary: nn.Module, num_layers: int) -> nn.ModuleList | None:
    """The list of decoder layers beside the rotary; None if there is no such list."""
    for parent in model.modules():
        if any(child is rotary for child in parent.children()):
            for child in parent.children():
                if isinstance(child, nn.ModuleList) and len(child) == num_layers:
                    return child
    return None


def text_decoder(model: nn.Module) -> nn.Module:
    """The text part of a model that may also read images or audio."""
    get_decoder = getattr(model, "get_decoder", None)
    decoder: nn.Module = model if get_decoder is None else get_decoder()
    has_parts = next(decoder.children(), None) is not None  # some families' `get_decoder` returns their head
    return decoder if has_parts else model


def is_rotary(module: nn.Module) -> bool:
    """Whether a module computes cos and sin from positions."""
    module_class: Any = type(module)
    return "rotary" in module_class.__name__.lower() and "position_ids" in forward_parameters(module_class)


def named_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a module, by the names of its parameters."""
    module_class: Any = type(module)
    return {**dict(zip(forward_parameters(module_class), args, strict=False)), **kwargs}


@lru_cache(maxsize=256)
def forward_parameters(module_class: Any) -> tuple[str, ...]:
    """The names of a forward's parameters, without `self`."""
    return tuple(inspect.signature(module_class.forward).parameters)[1:]


def _layer_index(path: str) -> int | None:
    """The index of the layer that a module is part of, None outside the layers."""
    return next((int(part) for part in path.split(".")[:-1] if part.isdigit()), None)


def _layer(path: str) -> int:
    index = _layer_index(path)
    assert index is not None, path
    return index


def _knows_layer_types(rotary: Any) -> bool:
    rotary_class: Any = type(rotary)
    return "layer_type" in forward_parameters(rotary_class)


def _theta(rotary: Any) -> float | None:
    """The theta that a rotary's own configuration states."""
    theta: float | None = (getattr(rotary.config, "rope_parameters", None) or {}).get("rope_theta")
    return theta
