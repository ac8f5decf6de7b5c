"""Where in a loaded model the parts are that `install` replaces.

Found by what they are (class, signature, place in the tree), never by family name.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry

WINDOW_ATTRIBUTES = ("sliding_window", "attention_chunk_size")


def find_rotary(model: nn.Module, name: str) -> nn.Module:
    """The one rotary that serves every layer of the text decoder.

    Raises:
        ModelError: there is none, there are several, or each layer has its own.
    """
    rotaries: dict[str, nn.Module] = {
        path: module for path, module in _decoder(model).named_modules() if is_rotary(module)
    }
    shared: list[nn.Module] = [
        module for path, module in rotaries.items() if not any(map(str.isdigit, path.split(".")))
    ]
    if len(rotaries) == 1 and shared:
        return shared[0]
    if shared:
        reason = f"it has {len(rotaries)} rotaries, which one set of factors can't describe"
    elif rotaries:
        reason = "each of its attention layers has a rotary of its own"
    else:
        reason = "it has no model-level rotary that could be replaced"
    raise ModelError(f"{name} can't be extended: {reason}.")


def find_decoder_layers(model: nn.Module, rotary: nn.Module, geometry: RopeGeometry) -> nn.ModuleList:
    """The layers beside the rotary.

    Raises:
        ModelError: there is no such list, so that per-layer factors can't be told apart.
    """
    for parent in model.modules():
        if any(child is rotary for child in parent.children()):
            for child in parent.children():
                if isinstance(child, nn.ModuleList) and len(child) == geometry.num_layers:
                    return child
    raise ModelError(
        f"No list of {geometry.num_layers} layers stands beside this model's rotary: give one vector of "
        f"factors for all layers."
    )


def find_windows(model: nn.Module) -> Iterator[tuple[Any, str]]:
    """Every place that limits how far a layer sees: configurations (for masks and caches) and modules."""
    owners: dict[int, Any] = {}
    for module in _decoder(model).modules():
        owners.setdefault(id(module), module)
        config = getattr(module, "config", None)
        if config is not None:
            owners.setdefault(id(config), config)
    for owner in owners.values():
        for attribute in WINDOW_ATTRIBUTES:
            value = owner.__dict__.get(attribute)
            if isinstance(value, int) and not isinstance(value, bool):
                yield owner, attribute


def drops_cache_at_switch(module: nn.Module) -> bool:
    """Phi's models forget what they read when a generation crosses the original window."""
    prepare = getattr(type(module), "prepare_inputs_for_generation", None)
    code = getattr(inspect.unwrap(prepare), "__code__", None) if prepare is not None else None
    return code is not None and "original_max_position_embeddings" in code.co_names


def _decoder(model: nn.Module) -> nn.Module:
    """The part that reads text, of a model that may see or hear as well."""
    get_decoder = getattr(model, "get_decoder", None)
    decoder: nn.Module = model if get_decoder is None else get_decoder()
    return decoder


def is_rotary(module: nn.Module) -> bool:
    """Whether a module makes cos and sin from positions."""
    parameters = inspect.signature(type(module).forward).parameters
    return "rotary" in type(module).__name__.lower() and "position_ids" in parameters
