"""Compares the output of a model's rotary module with what its configuration states.

A configuration alone does not decide how a model rotates: families have their own keys, ignore keys, or build
no rotary. transformers builds the rotary without layers and weights in about ten milliseconds.
"""

import copy
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from ropewalk.errors import ModelError, shown
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.config_fields import read_by_transformers
from ropewalk.models.rotary_calls import RotaryCalls, find_rotary, is_rotary
from ropewalk.models.rotary_layout import RotaryLayout, bare_forward, buffer_name, leaves
from ropewalk.rope.frequencies import cos_sin

if TYPE_CHECKING:
    from ropewalk.models.rope_config import RopeDescription

AUTO_CLASSES = (AutoModelForCausalLM, AutoModel)
# Keys that switch the rotary of a family on or off, with the value that switches it on.
SWITCHES = {"position_embedding_type": "rope", "use_mem_rope": True}


def build_rotary(config: Any, name: str, geometry: RopeGeometry) -> RotaryCalls | None:
    """The rotary of a model with this configuration, on the CPU.

    Args:
        config: the transformers configuration of the text part.
        geometry: the geometry of the layers that factors are for.

    Returns:
        The rotary, or None if transformers has no model of this type.

    Raises:
        ModelError: transformers can't build it, or it has no rotary.
    """
    auto_class = next((auto for auto in AUTO_CLASSES if type(config) in auto._model_mapping), None)
    if auto_class is None:
        return None
    switched_off = [key for key, on in SWITCHES.items() if getattr(config, key, on) != on]
    model = _without_weights(auto_class, config, name, num_layers=0)
    has_rotary = any(map(is_rotary, model.modules()))
    if switched_off and not has_rotary:
        key = switched_off[0]
        raise ModelError(
            f"{name} can't be extended: its model has no rotary position embedding (`{key}` is "
            f"{shown(getattr(config, key))})."
        )
    if not has_rotary:  # rotaries may be parts of the layers
        model = _without_weights(auto_class, config, name, num_layers=config.num_hidden_layers)
    calls = find_rotary(model, name, geometry.layer_type, geometry.rope_theta)
    with read_by_transformers(name):
        calls.rotary.to_empty(device="cpu")
        model._init_weights(calls.rotary)  # as `from_pretrained` does for buffers that are not in checkpoints
    return calls


def _without_weights(auto_class: Any, config: Any, name: str, num_layers: int) -> Any:
    """A model on torch's meta device, so that the sizes in a configuration take no memory."""
    with read_by_transformers(name), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors", UserWarning)
        bare = copy.deepcopy(config)
        bare.num_hidden_layers = num_layers
        bare.pad_token_id = 0  # an id beyond the vocabulary raises, but does not affect the rotary
        with torch.device("meta"):
            model = auto_class.from_config(bare)
        model.config.num_hidden_layers = config.num_hidden_layers  # some initialise weights by it
        return model


def require_described(
    calls: RotaryCalls, layout: RotaryLayout, description: "RopeDescription", name: str
) -> bool:
    """Refuse a model that does not rotate as its description states: factors would then be wrong.

    Returns:
        Whether its own scaling is used at its length: transformers' Phi-MoE rotates by the short set of
        longrope at every length.

    Raises:
        ModelError: its frequencies or its attention factor differ from its description.
    """
    own, short = description.own, description.own_short
    if description.own_problem is not None:
        return True  # there are no factors to compare with
    if own is None:
        own = _factors_of_one(description.geometry)
    same = partial(follows, calls.rotary, layout, name=name, layer_type=calls.layer_type)
    if same(short or own) and (short is None or same(own)):
        return True
    if short is not None:
        only_short = own.replace(rescale_factors=short.rescale_factors)
        if same(short) and same(only_short):
            return False
    raise ModelError(
        f"{name} can't be extended: its rotary does not rotate at the frequencies that its configuration "
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
    """Whether a rotary of the base model rotates by these factors in a text of their target length."""
    buffer = getattr(rotary, buffer_name("inv_freq", layer_type), None)
    is_half = isinstance(buffer, Tensor) and buffer.dtype in (torch.bfloat16, torch.float16)
    num_positions = min(4 if is_half else 64, factors.target_length)
    # Some rules depend on the last position of a call, so the call ends at the target length.
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
    """Whether both are equal at the first positions; position 0 shows the attention factor."""
    pairs = list(zip(leaves(original), leaves(filled), strict=True))
    if any(theirs.shape != ours.shape for theirs, ours in pairs):
        return False
    return all(
        float((theirs - ours)[:, :num_positions].abs().max()) < tolerance * float(ours[:, 0].abs().max() or 1)
        for theirs, ours in pairs
    )
