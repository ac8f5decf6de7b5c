"""The scaling that a configuration carries, as factors: transformers' five types in terms of ours.

Each is held to transformers' own frequencies, pair by pair, by a test.
"""

from collections.abc import Mapping
from typing import Any

from ropewalk.errors import FactorsError
from ropewalk.factors import RescaleFactors
from ropewalk.geometry import RopeGeometry
from ropewalk.rope.attention_scale import longrope_attention_factor, yarn_attention_factor
from ropewalk.rope.schemes import SchemeSpec, scheme_factors

SCALING_TYPES = ("linear", "dynamic", "yarn", "llama3", "longrope")


def read_own_scaling(
    parameters: Mapping[str, Any], geometry: RopeGeometry, target_length: int, factor: float | None
) -> tuple[RescaleFactors, RescaleFactors | None]:
    """What the model turns by at its longest length, and, of longrope, up to its original window.

    Args:
        parameters: transformers' `rope_parameters`, of a type in `SCALING_TYPES`.
        geometry: with the original window that the configuration states, as the model itself uses it.
        target_length: how far the model reads with it, tokens.
        factor: what it multiplies the window by; by default what `target_length` is of the window.

    Raises:
        FactorsError: it turns some pair faster than its base does.
    """
    ratio = factor or target_length / geometry.original_length
    if ratio < 1:
        raise FactorsError(f"its factor is {ratio:g}, below 1")
    if parameters["rope_type"] == "longrope":
        return _longrope(parameters, geometry, target_length, ratio)
    return _closed_form(parameters, geometry, target_length, ratio), None


def _closed_form(
    parameters: Mapping[str, Any], geometry: RopeGeometry, target_length: int, ratio: float
) -> RescaleFactors:
    def scheme(name: str, *keys: str, factor: float = ratio) -> RescaleFactors:
        given = {key: float(parameters[key]) for key in keys if parameters.get(key) is not None}
        spec = SchemeSpec(name=name, parameters={"factor": factor, **given})
        return scheme_factors(spec, geometry, target_length)

    match parameters["rope_type"]:
        case "linear":
            return scheme("pi")
        case "dynamic":
            # The base grows with the length; these are the factors that it reaches at the target.
            return scheme("ntk", factor=ratio * target_length / geometry.original_length - (ratio - 1))
        case "llama3":
            return scheme("llama3", "low_freq_factor", "high_freq_factor")
        case _:
            own = scheme("yarn", "beta_fast", "beta_slow", "truncate")
            return own.replace(attention_factor=_yarn_attention_factor(parameters, ratio))


def _yarn_attention_factor(parameters: Mapping[str, Any], ratio: float) -> float:
    """As stated, or the quotient of DeepSeek's two scales, or YaRN's own."""
    stated, scale, scale_all = (
        parameters.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim")
    )
    if stated is not None:
        return float(stated)
    growth = yarn_attention_factor(ratio) - 1
    if scale and scale_all:
        return float((scale * growth + 1) / (scale_all * growth + 1))
    return growth + 1


def _longrope(
    parameters: Mapping[str, Any], geometry: RopeGeometry, target_length: int, ratio: float
) -> tuple[RescaleFactors, RescaleFactors]:
    stated = parameters.get("attention_factor")
    if stated is None:
        stated = longrope_attention_factor(ratio, geometry.original_length)

    def factors(kind: str, length: int) -> RescaleFactors:
        return RescaleFactors.single(
            geometry=geometry,
            target_length=length,
            rescale_factors=parameters[f"{kind}_factor"],
            # Phi-MoE states a scale for each of the two.
            attention_factor=parameters.get(f"{kind}_mscale") or stated,
        )

    return factors("long", target_length), factors("short", geometry.original_length)
