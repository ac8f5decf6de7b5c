"""Factors in a `config.json`: the keys of transformers' `longrope`, in the forms of its versions 4 and 5.

Version 5 keeps one dictionary, `rope_parameters`, with theta inside, and writes nothing else. Version 4 reads
`rope_scaling` beside a top-level `rope_theta` and a top-level `original_max_position_embeddings`; where these
are missing it does not complain, but turns by theta 10000 without any factors. So both forms are written,
and written again after every save of version 5 (`restore_keys`).

With both there, version 5 lets `rope_scaling` win, and fills theta in from the top.

A rotary's dictionary may also have keys that other parts of the model read (the softmax scale of DeepSeek's
attention, the query scale of Ministral-3). These are kept (`kept_keys`), with the meaning that they had.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.attention_factor import longrope_attention_factor

# Version 4 refuses any `rope_scaling` of these but `type` and the two lists. Engines that then compute the
# attention factor themselves are right; any other attention factor it can't hold.
THREE_KEYS_IN_4 = ("phi3", "phi4_multimodal")
# Read an attention factor for each of the two sets, and no other.
MSCALE_TYPES = ("phimoe",)
# Version 4 has its own names for theta and the share of a head that is turned.
OWN_NAMES_IN_4 = ("gpt_neox",)
TOLERANCE = 1e-6  # of an attention factor

# The keys of a rotary's dictionary that state the rotation itself, of any type: factors replace all of them.
ROTATION_KEYS = frozenset({
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings",
    "attention_factor", "short_factor", "long_factor", "short_mscale", "long_mscale", "beta_fast",
    "beta_slow", "mscale", "truncate", "low_freq_factor", "high_freq_factor", "alpha",
})  # fmt: skip
# DeepSeek's attention multiplies its scores by the square of YaRN's attention factor for (`factor`, this),
# under any type but `default`.
SOFTMAX_KEY = "mscale_all_dim"
# Ministral-3 and Mistral-4 multiply queries by 1 + this * ln(1 + floor(position / the original window)).
QUERY_KEY = "llama_4_scaling_beta"
# The names by which models, tokenizers and engines know the longest length.
LENGTH_KEYS = (
    "max_position_embeddings", "model_max_length", "max_sequence_length", "max_seq_length", "max_seq_len",
    "seq_length", "seq_len", "n_positions", "n_ctx", "max_target_positions",
)  # fmt: skip

TEXT_PARTS = ("text_config", "decoder", "generator")
NOT_RESTORED = ("rope_theta", "rope_scaling", "rope_parameters")


def longrope_keys(
    short: RescaleFactors, long: RescaleFactors, model_type: str = "", kept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What stands in a `config.json` (of a multi-modal model, in its text part).

    Args:
        short: for sequences of up to `original_length` tokens.
        long: for longer ones; its attention factor is the one that transformers multiplies both by.
        kept: what else the dictionary says; see `kept_keys`.

    Raises:
        ModelError: a vector for each layer, which no configuration can hold.
    """
    if short.per_layer or long.per_layer:
        raise ModelError("These factors have a vector for each layer, which no configuration can hold.")
    geometry = long.geometry
    scaling: dict[str, Any] = {
        **(kept or {}),
        "rope_type": "longrope",
        "type": "longrope",
        "rope_theta": geometry.rope_theta,
        "factor": long.extension_ratio,
        "original_max_position_embeddings": geometry.original_length,
        "short_factor": list(short.rescale_factors[0]),
        "long_factor": list(long.rescale_factors[0]),
        "attention_factor": long.attention_factor,
    }
    if model_type in MSCALE_TYPES or not (is_computed(short, long) and is_computed(long, long)):
        scaling["short_mscale"] = short.attention_factor  # read by vLLM
        scaling["long_mscale"] = long.attention_factor
    if geometry.rotary_dim != geometry.head_dim or "partial_rotary_factor" in scaling:
        scaling["partial_rotary_factor"] = partial_rotary_factor(geometry)
    return both_forms(scaling, long.target_length, model_type)


def kept_keys(parameters: Mapping[str, Any], factors: RescaleFactors, name: str) -> dict[str, Any]:
    """What a model's rotary dictionary says besides the rotation, restated for a longrope dictionary.

    Args:
        parameters: the model's own `rope_parameters`, with what its family has as defaults.
        factors: what the new dictionary states (the long ones).
        name: of the model, for errors.

    Raises:
        ModelError: a key whose meaning can't be kept.
    """
    kept = {key: value for key, value in parameters.items() if key not in ROTATION_KEYS}
    if "partial_rotary_factor" in parameters:
        kept["partial_rotary_factor"] = partial_rotary_factor(factors.geometry)  # its default may be another
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

    The scores are multiplied by (0.1 * mscale_all_dim * ln(factor) + 1)^2, so the product with the logarithm
    is what must stay. Without a scaling of its own the model multiplies by nothing.
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
            f"{name} scales its attention by {SOFTMAX_KEY}, which a configuration can hold only for factors "
            f"beyond the window of {factors.geometry.original_length} tokens, but these are for "
            f"{factors.target_length}: give factors for a longer target."
        )
    return {SOFTMAX_KEY: scale * math.log(ratio) / math.log(new_ratio)}


def _require_same_window(parameters: Mapping[str, Any], geometry: RopeGeometry, name: str) -> None:
    own = parameters.get("original_max_position_embeddings")
    if own != geometry.original_length:
        raise ModelError(
            f"{name} scales its queries by position from a window of {own} tokens ({QUERY_KEY}), but these "
            f"factors are for a window of {geometry.original_length}, and a configuration holds one: make "
            f"factors for {own} (--original-length)."
        )


def with_longest(config: Mapping[str, Any], target_length: int) -> dict[str, Any]:
    """The configuration with every length that it has, by whatever name, set to `target_length`.

    Engines differ in the name that they prefer (vLLM takes `model_max_length` first). A multi-modal model's
    are at the top and in its text part.
    """

    def changed(part: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for name in LENGTH_KEYS if _is_length(part.get(name))]
        return {**part, **dict.fromkeys(names, target_length)}

    return in_each_part(config, changed)


def in_each_part(
    config: Mapping[str, Any], change: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The configuration with a change made at its top, and in the text part of a multi-modal model."""
    changed, place = change(config), _text_part(config)
    return changed if place is None else {**changed, place: change(config[place])}


def both_forms(
    scaling: Mapping[str, Any], max_position_embeddings: int, model_type: str = ""
) -> dict[str, Any]:
    """The same parameters for version 5 and for version 4.

    Args:
        scaling: version 5's `rope_parameters`, with theta inside; of any type.
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


def restore_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A whole configuration as version 5 wrote it, with version 4's keys put back.

    Raises:
        ModelError: it has no rotary parameters that could be told to version 4: none at all, or other ones
            for each type of layer.
    """
    text = rope_part(config)
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    theta = (scaling or {}).get("rope_theta", text.get("rope_theta"))
    longest = text.get("max_position_embeddings")
    is_nested = any(isinstance(value, dict) for value in (scaling or {}).values())
    if theta is None or longest is None or is_nested:
        raise ModelError(
            f"This {config.get('model_type')} configuration has no rotary parameters that transformers 4 "
            f"could read too: only a model with one rotary for all layers has."
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
    return with_rope_part(config, both_forms(whole, longest, text.get("model_type", "")))


def rope_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a `config.json` keeps its rotary: at the top, or in the text part of a multi-modal model."""
    place = _text_part(config)
    return config if place is None else config[place]


def with_rope_part(config: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with `keys` in the place of what it said about the rotary."""
    place = _text_part(config)
    part = rope_part(config)
    changed = {name: value for name, value in part.items() if name not in NOT_RESTORED} | dict(keys)
    return changed if place is None else {**config, place: changed}


def _text_part(config: Mapping[str, Any]) -> str | None:
    """Where transformers finds the configuration of a multi-modal model's text decoder, if there is one."""
    return next((name for name in TEXT_PARTS if isinstance(config.get(name), dict) and config[name]), None)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_computed(factors: RescaleFactors, long: RescaleFactors) -> bool:
    """Whether the attention factor is the one that engines compute for the export's extension ratio."""
    computed = longrope_attention_factor(long.extension_ratio, long.geometry.original_length)
    return abs(factors.attention_factor - computed) <= TOLERANCE * computed


def partial_rotary_factor(geometry: RopeGeometry) -> float:
    """A share of which `int(head_dim * share)` is exactly `rotary_dim`."""
    share = geometry.rotary_dim / geometry.head_dim
    if int(geometry.head_dim * share) < geometry.rotary_dim:
        share = math.nextafter(share, 1.0)
    assert int(geometry.head_dim * share) == geometry.rotary_dim, geometry
    return share


def _rope_scaling(
    scaling: Mapping[str, Any], max_position_embeddings: int, model_type: str
) -> dict[str, Any] | None:
    """Version 4's dictionary; None where nothing is scaled."""
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
