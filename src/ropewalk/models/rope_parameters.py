"""The rotary parameters of a configuration, as one flat dictionary, and the layers that they apply to.

transformers 5 has `rope_parameters`, with theta inside; transformers 4 has `rope_scaling` beside a
top-level `rope_theta`. A family whose layers rotate differently has one dictionary per layer type (Gemma 3:
`full_attention` and `sliding_attention`). Factors are for one of them: the layer type whose attention is
global. The others keep their own rotation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import shown
from ropewalk.models.attention_layers import AttentionLayers, layer_kinds, read_attention_layers
from ropewalk.models.config_fields import Fields
from ropewalk.models.scaling_config import SCALING_TYPES, STATIC_NTK

# The types that divide the exponents of the frequencies by the size of the whole head; only the first pairs
# rotate.
PROPORTIONAL = "proportional"
# Families whose dictionaries have other names than the kinds in `layer_types`: kind to name, and the name for
# all other kinds.
OWN_NAMES = {"deepseek_v4": ({"sliding_attention": "main"}, "compress")}
# Granite's list with one theta per layer, 0 for a layer that does not rotate.
THETA_LIST = "layer_rope_theta"


@dataclass(frozen=True, kw_only=True)
class RopeParameters:
    """The parameters of one rotary.

    Attributes:
        values: transformers' keys, with at least `rope_type` and `rope_theta`.
        layer_type: the layer type that they apply to, as the configuration names it; None for all layers.
        sizes: the configuration of these layers, with their head size.
        layers: how each layer uses positions; `rotates` is true for those with these parameters.
        is_proportional: whether the exponents of the frequencies are divided by the size of the whole head.
    """

    values: Fields
    layer_type: str | None
    sizes: Fields
    layers: AttentionLayers
    is_proportional: bool


def read_rope_parameters(fields: Fields) -> RopeParameters:
    """Read either form, and choose the layers that factors apply to.

    Raises:
        ModelError: the configuration has no rotary; it has several, and not exactly one of them is for layers
            with global attention; or its scaling has an unknown type.
    """
    given = rope_dictionary(fields)
    names = [str(name) for name, value in given.items() if isinstance(value, Mapping)]
    if names:
        return _of_layer_type(fields, given, names)
    theta = given.get("rope_theta")
    theta = fields.get("rope_theta") if theta is None else theta
    if theta is None:
        missing = "does not say `rope_theta`" if given else "has no rotary position embedding"
        raise fields.refuse(f"its configuration {missing}")
    if fields.get(THETA_LIST) is not None:
        return _of_theta_list(fields, given)
    num_layers = fields.required("num_hidden_layers")
    return RopeParameters(
        values=_flat(fields, given, theta),
        layer_type=None,
        sizes=fields,
        layers=read_attention_layers(fields, num_layers),
        is_proportional=given.get("rope_type") == PROPORTIONAL,
    )


def rope_dictionary(fields: Fields) -> dict[str, Any]:
    """The dictionary of either form, unchanged; empty if there is none."""
    return fields.dictionary("rope_parameters") or fields.dictionary("rope_scaling")


def _of_layer_type(fields: Fields, given: Mapping[str, Any], names: list[str]) -> RopeParameters:
    num_layers = fields.required("num_hidden_layers")
    if "" in layer_kinds(fields, num_layers):
        raise fields.refuse(
            f"it has rotary parameters for {' and '.join(names[:4])}, but no `layer_types` that say which "
            f"layers these are"
        )
    model_type = str(fields.get("model_type"))

    def name_of(kind: str) -> str:
        own_names, others = OWN_NAMES.get(model_type, ({}, kind))
        return own_names.get(kind, others)

    layers = read_attention_layers(fields, num_layers, lambda _, kind: name_of(kind) in names)
    chosen = _global_choice(fields, layers, [name_of(kind) for kind in layers.kinds])
    values = given[chosen]
    return RopeParameters(
        values=_flat(fields, values, values.get("rope_theta") or fields.get("rope_theta")),
        layer_type=chosen,
        sizes=_layer_fields(fields, chosen),
        layers=read_attention_layers(fields, num_layers, lambda _, kind: name_of(kind) == chosen),
        is_proportional=values.get("rope_type") == PROPORTIONAL,
    )


def _of_theta_list(fields: Fields, given: Mapping[str, Any]) -> RopeParameters:
    """From a list with one theta per layer, 0 for a layer without positions."""
    num_layers = fields.required("num_hidden_layers")
    thetas = fields.entries(THETA_LIST, num_layers) or []
    layers = read_attention_layers(fields, num_layers, lambda index, _: bool(thetas[index]))
    if not any(layers.rotates):
        raise fields.refuse("none of its layers has a rotary position embedding")
    chosen = _global_choice(fields, layers, [f"theta {theta}" for theta in thetas])
    theta = next(theta for theta in thetas if f"theta {theta}" == chosen)
    kinds = {kind for kind, own in zip(layers.kinds, thetas, strict=True) if own == theta}
    is_shared = all(own in (theta, 0) for own in thetas)
    return RopeParameters(
        values=_flat(fields, given, theta),
        layer_type=None if is_shared else max(kinds, key=lambda kind: kind == "full_attention"),
        sizes=fields,
        layers=read_attention_layers(fields, num_layers, lambda index, _: thetas[index] == theta),
        is_proportional=False,
    )


def _global_choice(fields: Fields, layers: AttentionLayers, names: list[str]) -> str:
    """The only rotary of layers with global attention, or the only rotary, with or without a window."""
    rotating = {name: False for name, rotates in zip(names, layers.rotates, strict=True) if rotates}
    for name, rotates, sees_window in zip(names, layers.rotates, layers.sees_window, strict=True):
        if rotates and not sees_window:
            rotating[name] = True
    if len(rotating) == 1:
        return next(iter(rotating))
    chosen = [name for name, is_global in rotating.items() if is_global]
    if len(chosen) == 1:
        return chosen[0]
    if not rotating:
        raise fields.refuse("none of its layers has a rotary position embedding")
    what = "more than one of them sees" if chosen else "none of them sees"
    raise fields.refuse(
        f"its layers rotate in {len(rotating)} ways ({', '.join(sorted(rotating)[:4])}), and {what} the "
        f"whole context, but factors are for exactly one that does"
    )


def _layer_fields(fields: Fields, layer_type: str) -> Fields:
    """The configuration of the layers of one type, which may have other sizes than the rest."""
    if not fields.get("is_heterogeneous"):
        return fields
    by_type = fields.get("per_layer_config")
    try:
        return Fields(by_type[layer_type], fields.name)
    except ValueError:  # its dictionaries have other names than its layers
        return fields


def _flat(fields: Fields, given: Mapping[str, Any], theta: Any) -> Fields:
    """One flat dictionary with at least `rope_type` and `rope_theta`."""
    if theta is None:
        raise fields.refuse("its configuration does not say `rope_theta`")
    rope_type = given.get("rope_type") or given.get("type") or "default"
    # `mrope` equals plain RoPE if the three positions of a token are equal; `rotary_layout` checks this.
    rope_type = "default" if rope_type == "mrope" else rope_type
    if rope_type == PROPORTIONAL:
        rope_type = "linear" if given.get("factor") else "default"
    if rope_type not in ("default", *SCALING_TYPES):
        raise fields.refuse(f"its scaling {shown(rope_type)} is not supported")
    if rope_type == "dynamic" and given.get("alpha") and str(fields.get("model_type")).startswith("hunyuan"):
        rope_type = STATIC_NTK
    return Fields({**given, "rope_type": rope_type, "rope_theta": theta}, fields.name)
