"""Factors in a `config.json`: the keys of `longrope` as transformers 4 and transformers 5 read them.

Version 5 reads and writes one dictionary, `rope_parameters`, with theta inside. Version 4 reads
`rope_scaling` and the top-level `rope_theta` and `original_max_position_embeddings`. If these are missing, it
uses theta 10000 and no factors, without a warning. Ropewalk therefore writes both forms, and adds version 4's
keys again after every save of version 5 (`restore_keys`).

If both are present, version 5 prefers `rope_scaling`, and takes theta from the top level.

A family whose layers rotate differently has one dictionary per layer type in `rope_parameters`. Factors
replace the dictionary of their layer type; the others do not change. Version 4 supports some of these
families, with a `rope_scaling` for the global layers only (`GLOBAL_SCALING_IN_4`); for the rest, only
`rope_parameters` is written.

A rotary's dictionary may also have keys that other parts of the model read (the softmax scale of DeepSeek's
attention, the query scale of Ministral-3). These keep their meaning (`kept_keys`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.scaling_config import NO_ROTATION
from ropewalk.rope.attention_factor import longrope_attention_factor

# In these families, version 4 accepts no key of `rope_scaling` but `type` and the two lists. The attention
# factor must then be the one that engines compute.
THREE_KEYS_IN_4 = ("phi3", "phi4_multimodal")
# Families that read one attention factor per set (short and long), and no common one.
MSCALE_TYPES = ("phimoe",)
# Families with parameters per layer type whose `rope_scaling` and `rope_theta` in version 4 apply to the
# global layers only, with version 4's name for the theta of the sliding layers.
GLOBAL_SCALING_IN_4 = {
    "gemma3_text": "rope_local_base_freq",
    "gemma3n_text": "rope_local_base_freq",
    "olmo3": None,
}
# Families with a different head size per layer type. Version 5 checks a longrope dictionary against the head
# size of the whole configuration, and reads that in these families only if a further key is set.
DIFFERENT_HEADS = ("gemma4_text", "gemma4_unified_text", "dots3_note", "dots3_note_text")
DIFFERENT_HEADS_KEY = "allow_global_per_layer_attribute_access"
# Families whose code in transformers reads no scaling.
WITHOUT_SCALING = ("recurrent_gemma",)
# Version 4 has its own names for theta and the share of a head that rotates.
OWN_NAMES_IN_4 = ("gpt_neox",)
TOLERANCE = 1e-6  # of an attention factor

# The keys of a rotary's dictionary that state the rotation, of any type: factors replace all of them.
ROTATION_KEYS = frozenset({
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings",
    "attention_factor", "short_factor", "long_factor", "short_mscale", "long_mscale", "beta_fast",
    "beta_slow", "mscale", "truncate", "low_freq_factor", "high_freq_factor", "alpha",
})  # fmt: skip
# DeepSeek's attention multiplies its scores by the square of YaRN's attention factor, computed from `factor`
# and this key, for every type but `default`.
SOFTMAX_KEY = "mscale_all_dim"
# Ministral-3 and Mistral-4 multiply queries by 1 + this * ln(1 + floor(position / the original window)).
QUERY_KEY = "llama_4_scaling_beta"
# The names of the longest length in models, tokenizers and engines.
LENGTH_KEYS = (
    "max_position_embeddings", "model_max_length", "max_sequence_length", "max_seq_length", "max_seq_len",
    "seq_length", "seq_len", "n_positions", "n_ctx", "max_target_positions",
)  # fmt: skip

TEXT_PARTS = ("text_config", "decoder", "generator")
NOT_RESTORED = ("rope_theta", "rope_scaling", "rope_parameters")


def longrope_keys(
    short: RescaleFactors, long: RescaleFactors, model_type: str = "", kept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The keys that state these factors in a `config.json` (for a multi-modal model, in its text part).

    Args:
        short: for sequences of up to `original_length` tokens.
        long: for longer sequences; transformers uses its attention factor for both sets.
        kept: the other keys of the dictionary, or one dictionary per layer type; see `kept_keys`.

    Raises:
        ModelError: a configuration can't store the factors, because they have one vector per layer, or
            because the family reads no scaling.
    """
    if model_type in WITHOUT_SCALING:
        raise ModelError(
            f"transformers reads no scaling in a configuration of {model_type}, so it can't store factors: "
            f"use them in Python."
        )
    if short.per_layer or long.per_layer:
        raise ModelError(
            "These factors have one vector per layer, which no configuration can store: give one vector "
            "for all layers."
        )
    geometry = long.geometry
    scaling: dict[str, Any] = {
        **of_layer_type(kept or {}, geometry.layer_type),
        "rope_type": "longrope",
        "type": "longrope",
        "rope_theta": geometry.rope_theta,
        "factor": long.extension_ratio,
        "original_max_position_embeddings": geometry.original_length,
        "short_factor": _every_pair(short),
        "long_factor": _every_pair(long),
        "attention_factor": long.attention_factor,
    }
    if model_type in MSCALE_TYPES or not (is_computed(short, long) and is_computed(long, long)):
        scaling["short_mscale"] = short.attention_factor  # read by vLLM
        scaling["long_mscale"] = long.attention_factor
    if geometry.exponent_dim != geometry.head_dim or "partial_rotary_factor" in scaling:
        scaling["partial_rotary_factor"] = partial_rotary_factor(geometry)
    if geometry.layer_type is None:
        return both_forms(scaling, long.target_length, model_type)
    nested = {**(kept or {}), geometry.layer_type: scaling}
    return nested_forms(nested, geometry.layer_type, long.target_length, model_type)


def of_layer_type(parameters: Mapping[str, Any], layer_type: str | None) -> Mapping[str, Any]:
    """The dictionary of one layer type; all parameters for None, where all layers share a rotary."""
    found = parameters if layer_type is None else parameters.get(layer_type)
    return found if isinstance(found, Mapping) else {}


def _every_pair(factors: RescaleFactors) -> list[float]:
    """The factors, and `NO_ROTATION` for the pairs of a head with proportional RoPE that do not rotate."""
    return [*factors.rescale_factors[0], *[NO_ROTATION] * factors.geometry.num_still_pairs]


def kept_keys(parameters: Mapping[str, Any], factors: RescaleFactors, name: str) -> dict[str, Any]:
    """The keys of a model's rotary dictionary that do not state the rotation, for a longrope dictionary.

    Args:
        parameters: the model's own `rope_parameters`, with the defaults of its family.
        factors: the (long) factors of the new dictionary.
        name: the model's name in errors.

    Returns:
        The keys with their values in the new dictionary. With parameters per layer type, one dictionary per
        type, of which only that of the factors' layer type changes.

    Raises:
        ModelError: a key can't keep its meaning, or the factors are for a layer type that has no dictionary.
    """
    layer_type = factors.geometry.layer_type
    if layer_type is None:
        return _kept(parameters, factors, name)
    if not isinstance(parameters.get(layer_type), Mapping):
        raise ModelError(
            f"These factors are for the {layer_type} layers of {name}, but its configuration has one rotary "
            f"dictionary for all layers, which can't store them: use the factors in Python."
        )
    return {**parameters, layer_type: _kept(parameters[layer_type], factors, name)}


def _kept(parameters: Mapping[str, Any], factors: RescaleFactors, name: str) -> dict[str, Any]:
    kept = {key: value for key, value in parameters.items() if key not in ROTATION_KEYS}
    if "partial_rotary_factor" in parameters:
        kept["partial_rotary_factor"] = partial_rotary_factor(factors.geometry)  # the default may differ
    for key in kept.keys() & set(LENGTH_KEYS):
        kept[key] = factors.target_length
    if kept.get(QUERY_KEY):
        _require_same_window(parameters, factors.geometry, name)
    scale = kept.pop(SOFTMAX_KEY, None)
    return kept | _softmax_scale(parameters, scale, factors, name)


def foreign_keys(parameters: Mapping[str, Any]) -> list[str]:
    """The keys of a rotary's dictionary that state neither the rotation nor a length."""
    return sorted(parameters.keys() - ROTATION_KEYS - set(LENGTH_KEYS))


def _softmax_scale(
    parameters: Mapping[str, Any], scale: Any, factors: RescaleFactors, name: str
) -> dict[str, Any]:
    """`mscale_all_dim` for the new dictionary's `factor`, so that attention scores are scaled as they were.

    The scores are multiplied by (0.1 * mscale_all_dim * ln(factor) + 1)^2, so mscale_all_dim * ln(factor)
    must not change. A model without scaling does not multiply its scores.
    """
    ratio, new_ratio = parameters.get("factor") or 1.0, factors.extension_ratio
    is_scaled = (parameters.get("rope_type") or parameters.get("type") or "default") != "default"
    if not scale or not is_scaled:
        return {}
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in (scale, ratio)):
        raise ModelError(
            f"{name} has {SOFTMAX_KEY} {scale!r} and factor {ratio!r}, but both must be finite "
            f"numbers: correct its configuration."
        )
    if ratio <= 1:
        return {}
    if new_ratio <= 1:
        raise ModelError(
            f"{name} scales its attention by {SOFTMAX_KEY}, which a configuration can store only for factors "
            f"beyond the window of {factors.geometry.original_length} tokens, but these are for "
            f"{factors.target_length}: give factors for a longer target."
        )
    return {SOFTMAX_KEY: scale * math.log(ratio) / math.log(new_ratio)}


def _require_same_window(parameters: Mapping[str, Any], geometry: RopeGeometry, name: str) -> None:
    own = parameters.get("original_max_position_embeddings")
    if own != geometry.original_length:
        raise ModelError(
            f"{name} scales its queries by position from a window of {own} tokens ({QUERY_KEY}), but these "
            f"factors are for a window of {geometry.original_length}, and a configuration has one: make "
            f"factors for {own} (--original-length)."
        )


def with_longest(config: Mapping[str, Any], target_length: int) -> dict[str, Any]:
    """The configuration with all of its lengths, under any name, set to `target_length`.

    Engines differ in the name that they prefer (vLLM prefers `model_max_length`). A multi-modal model has
    lengths at the top and in its text part.
    """

    def changed(part: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for name in LENGTH_KEYS if _is_length(part.get(name))]
        return {**part, **dict.fromkeys(names, target_length)}

    return in_each_part(config, changed)


def in_each_part(
    config: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The configuration with a change applied to its top level and, in a multi-modal one, its text part."""
    changed, place = change(config), _text_part(config)
    return changed if place is None else {**changed, place: change(config[place])}


def both_forms(
    scaling: Mapping[str, Any], max_position_embeddings: int, model_type: str = ""
) -> dict[str, Any]:
    """The same rotary parameters as version 5 and as version 4 read them.

    Args:
        scaling: version 5's `rope_parameters` of any type, with theta inside.
    """
    theta, partial = scaling["rope_theta"], scaling.get("partial_rotary_factor")
    original = scaling.get("original_max_position_embeddings")
    keys: dict[str, Any] = {
        "rope_parameters": dict(scaling),
        "rope_scaling": _rope_scaling(scaling, max_position_embeddings, model_type),
        "rope_theta": theta,
        "max_position_embeddings": max_position_embeddings,
    }
    if original is not None:
        keys["original_max_position_embeddings"] = original
    if partial is not None:
        keys["partial_rotary_factor"] = partial
    if model_type in OWN_NAMES_IN_4:
        keys |= {"rotary_emb_base": theta, "rotary_pct": 1.0 if partial is None else partial}
    return {name: value for name, value in keys.items() if value is not None}


def nested_forms(
    parameters: Mapping[str, Any], layer_type: str, max_position_embeddings: int, model_type: str
) -> dict[str, Any]:
    """Parameters per layer type for version 5, and for version 4 where it supports the family.

    Args:
        parameters: version 5's `rope_parameters`, one dictionary per layer type, with theta inside.
        layer_type: the layer type that version 4's `rope_scaling` applies to.
    """
    keys: dict[str, Any] = {
        "rope_parameters": dict(parameters),
        "max_position_embeddings": max_position_embeddings,
    }
    if model_type in DIFFERENT_HEADS:
        keys[DIFFERENT_HEADS_KEY] = True
    if model_type not in GLOBAL_SCALING_IN_4:
        return keys
    keys |= both_forms(parameters[layer_type], max_position_embeddings, model_type)
    keys["rope_parameters"] = dict(parameters)
    local_theta, sliding = GLOBAL_SCALING_IN_4[model_type], of_layer_type(parameters, "sliding_attention")
    if local_theta is not None and "rope_theta" in sliding:
        keys[local_theta] = sliding["rope_theta"]
    return keys


def restore_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that version 5 wrote, with version 4's keys added.

    For a family with parameters per layer type that version 4 does not support, nothing is added.

    Raises:
        ModelError: it has no rotary parameters.
    """
    text = rope_part(config)
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    theta = (scaling or {}).get("rope_theta", text.get("rope_theta"))
    longest, model_type = text.get("max_position_embeddings"), text.get("model_type", "")
    if longest is not None and any(isinstance(value, dict) for value in (scaling or {}).values()):
        nested = {name: _typed(value) for name, value in (scaling or {}).items()}
        return with_rope_part(config, nested_forms(nested, "full_attention", longest, model_type))
    if theta is None or longest is None:
        raise ModelError(
            f"This {config.get('model_type')} configuration has no rotary parameters to convert for "
            f"transformers 4: name a model with a rotary position embedding."
        )
    kind = (scaling or {}).get("rope_type") or (scaling or {}).get("type") or "default"
    whole = {**(scaling or {}), "rope_type": kind, "rope_theta": theta}
    if kind != "default":
        whole["type"] = kind
    stated = text.get("original_max_position_embeddings")
    if kind == "longrope" and stated is not None:
        whole["original_max_position_embeddings"] = stated  # as version 5 does
    if text.get("partial_rotary_factor") is not None:
        whole.setdefault("partial_rotary_factor", text["partial_rotary_factor"])
    return with_rope_part(config, both_forms(whole, longest, model_type))


def _typed(parameters: Any) -> Any:
    """The dictionary with `type`, version 4's name of the scaling, beside `rope_type`."""
    kind = parameters.get("rope_type", "default") if isinstance(parameters, Mapping) else "default"
    return parameters if kind == "default" else {**parameters, "type": kind}


def rope_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a `config.json` with the rotary: the top level, or the text part of a multi-modal model."""
    place = _text_part(config)
    return config if place is None else config[place]


def with_rope_part(config: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with its rotary keys replaced by `keys`."""
    place = _text_part(config)
    part = rope_part(config)
    changed = {name: value for name, value in part.items() if name not in NOT_RESTORED} | dict(keys)
    return changed if place is None else {**config, place: changed}


def _text_part(config: Mapping[str, Any]) -> str | None:
    """The key under which transformers finds the text part of a multi-modal model; None if there is none."""
    return next((name for name in TEXT_PARTS if isinstance(config.get(name), dict) and config[name]), None)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_computed(factors: RescaleFactors, long: RescaleFactors) -> bool:
    """Whether engines compute this attention factor from the extension ratio of the long factors."""
    computed = longrope_attention_factor(long.extension_ratio, long.geometry.original_length)
    return abs(factors.attention_factor - computed) <= TOLERANCE * computed


def partial_rotary_factor(geometry: RopeGeometry) -> float:
    """A fraction for which `int(head_dim * fraction)` is exactly `exponent_dim`."""
    share = geometry.exponent_dim / geometry.head_dim
    if int(geometry.head_dim * share) < geometry.exponent_dim:
        share = math.nextafter(share, 1.0)
    assert int(geometry.head_dim * share) == geometry.exponent_dim, geometry
    return share


def _rope_scaling(
    scaling: Mapping[str, Any], max_position_embeddings: int, model_type: str
) -> dict[str, Any] | None:
    """Version 4's dictionary; None without a scaling."""
    if scaling.get("rope_type", "default") == "default":
        return None
    if (
        model_type not in THREE_KEYS_IN_4
        or scaling.keys() - ROTATION_KEYS
        or not _computes_attention(scaling, max_position_embeddings)
    ):
        return dict(scaling)
    return {"type": "longrope", **{name: scaling[name] for name in ("short_factor", "long_factor")}}


def _computes_attention(scaling: Mapping[str, Any], max_position_embeddings: int) -> bool:
    original, stated = scaling["original_max_position_embeddings"], scaling.get("attention_factor")
    computed = longrope_attention_factor(max_position_embeddings / original, original)
    return stated is None or abs(stated - computed) <= TOLERANCE * computed
