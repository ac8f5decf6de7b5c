"""What a model really rotates by, seen on its own rotary module, against what its configuration says.

A configuration is not believed: families read keys of their own, leave keys out, or build no rotary at all.
The rotary is built by transformers' own code, without layers and without weights, in about ten milliseconds.
"""

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from ropewalk.errors import ModelError, shown
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.config_fields import read_by_transformers
from ropewalk.models.rotary_calls import find_rotary, is_rotary
from ropewalk.models.rotary_layout import RotaryLayout, bare_forward, buffer_name, leaves
from ropewalk.rope.frequencies import cos_sin

if TYPE_CHECKING:
    from ropewalk.models.rope_config import RopeDescription

AUTO_CLASSES = (AutoModelForCausalLM, AutoModel)
# Keys by which a family builds its rotary or leaves it out, with the value that builds it.
SWITCHES = {"position_embedding_type": "rope", "use_mem_rope": True}


def build_rotary(config: Any, name: str, layer_type: str | None = None) -> nn.Module | None:
    """The rotary that a model of this configuration has, on the CPU.

    Args:
        config: a transformers configuration, of its text part.

    Returns:
        None where transformers has no model of this type, so that nothing can be built.

    Raises:
        ModelError: transformers can't build it, or it has no rotary that serves every layer.
    """
    auto_class = next((auto for auto in AUTO_CLASSES if type(config) in auto._model_mapping), None)
    if auto_class is None:
        return None
    with read_by_transformers(name):
        bare = copy.deepcopy(config)
        bare.num_hidden_layers = 0
        bare.pad_token_id = None  # one beyond the vocabulary is an error, and none of the rotary's
        with torch.device("meta"):  # however large it says that its embedding is
            model: Any = auto_class.from_config(bare)
    switched_off = [key for key, on in SWITCHES.items() if getattr(config, key, on) != on]
    if switched_off and not any(map(is_rotary, model.modules())):
        key = switched_off[0]
        raise ModelError(
            f"{name} can't be extended: its model has no rotary position embedding (`{key}` is "
            f"{shown(getattr(config, key))})."
        )
    rotary = find_rotary(model, name, layer_type).rotary
    with read_by_transformers(name):
        rotary.to_empty(device="cpu")
        model._init_weights(rotary)  # as `from_pretrained` fills what no checkpoint holds
    return rotary


def require_described(
    rotary: nn.Module, layout: RotaryLayout, description: "RopeDescription", name: str
) -> bool:
    """Refuse a model that does not rotate as its description says: factors would mean something else.

    Returns:
        Whether its own scaling takes effect at the length that it is for. transformers' Phi-MoE keeps the
        short set of longrope at every length.

    Raises:
        ModelError: other frequencies, or another attention factor, than its description states.
    """
    own, short = description.own, description.own_short
    if description.own_problem is not None:
        return True  # nothing is stated that could be compared
    if own is None:
        own = _factors_of_one(description.geometry)
    same = partial(follows, rotary, layout, name=name, layer_type=description.layer_type)
    if same(short or own) and (short is None or same(own)):
        return True
    if short is not None:
        only_short = own.replace(rescale_factors=short.rescale_factors)
        if same(short) and same(only_short):
            return False
    raise ModelError(
        f"{name} can't be extended: its rotary does not turn at the frequencies that its configuration "
        f"states ({layout.num_pairs} pairs, theta {description.geometry.rope_theta:g}, "
        f"{description.own_type} scaling)."
    )


def follows(
    rotary: nn.Module,
    layout: RotaryLayout,
    factors: RescaleFactors,
    *,
    name: str,
    layer_type: str | None = None,
) -> bool:
    """Whether a rotary of the base model rotates by these factors in a text as long as they are for."""
    buffer = getattr(rotary, buffer_name("inv_freq", layer_type), None)
    is_half = isinstance(buffer, Tensor) and buffer.dtype in (torch.bfloat16, torch.float16)
    num_positions = min(4 if is_half else 64, factors.target_length)
    # Some rules follow the longest position of a call, so the last one is as far as these factors reach.
    positions = torch.cat((torch.arange(num_positions), torch.tensor([factors.target_length - 1])))
    with read_by_transformers(name):
        original = bare_forward(copy.deepcopy(rotary).cpu(), positions.unsqueeze(0), layer_type=layer_type)
    filled = layout.fill(*cos_sin(factors, positions.unsqueeze(0)), like=torch.zeros(1))
    return _agree(original, filled, num_positions, 0.05 if is_half else 1e-4)


def _factors_of_one(geometry: RopeGeometry) -> RescaleFactors:
    ones = [1.0] * geometry.num_pairs
    return RescaleFactors.single(
        geometry=geometry, target_length=geometry.original_length, rescale_factors=ones
    )


def _agree(original: Any, filled: Any, num_positions: int, tolerance: float) -> bool:
    """Equal at the first positions: their attention factor too, which position 0 shows."""
    pairs = list(zip(leaves(original), leaves(filled), strict=True))
    if any(theirs.shape != ours.shape for theirs, ours in pairs):
        return False
    return all(
        float((theirs - ours)[:, :num_positions].abs().max()) < tolerance * float(ours[:, 0].abs().max() or 1)
        for theirs, ours in pairs
    )
