"""A model's own scaling as factors: transformers' five types, computed by the schemes of `rope.schemes`.

A test compares each type with the frequencies of transformers, pair by pair.
"""

from ropewalk.errors import FactorsError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.config_fields import Fields
from ropewalk.models.context_window import StatedWindow
from ropewalk.rope.attention_factor import longrope_attention_factor, yarn_attention_factor
from ropewalk.rope.schemes import SchemeSpec, scheme_factors

SCALING_TYPES = ("linear", "dynamic", "yarn", "llama3", "longrope")
# HunYuan's checkpoints state `dynamic`, but their `alpha` changes the base once, for every length.
STATIC_NTK = "dynamic with alpha"
# The factor of a pair that does not rotate, in a longrope dictionary. Its angles are 0 in every dtype.
NO_ROTATION = 1e18


def read_own_scaling(
    parameters: Fields, geometry: RopeGeometry, stated: StatedWindow
) -> tuple[RescaleFactors, RescaleFactors | None]:
    """The model's factors at its longest length, and those up to its original window if they differ.

    Args:
        parameters: transformers' `rope_parameters`, of a type in `SCALING_TYPES` or `STATIC_NTK`.
        geometry: with the original window that the configuration states, which the model itself uses.
        stated: the lengths that the configuration states.

    Raises:
        FactorsError: the scaling can't be written as factors.
        ModelError: a parameter is missing or not a number.
    """
    target_length = stated.reach
    ratio = stated.factor or target_length / geometry.original_length
    if ratio < 1:
        raise FactorsError(f"its factor is {ratio:g}, below 1")
    if stated.rope_type == "longrope":
        return _longrope(parameters, geometry, target_length, ratio)
    own = _closed_form(parameters, geometry, target_length, ratio)
    if stated.rope_type != "dynamic":
        return own, None
    ones = [1.0] * geometry.num_pairs
    length = geometry.original_length
    return own, RescaleFactors.single(geometry=geometry, target_length=length, rescale_factors=ones)


def num_still_pairs(parameters: Fields) -> int:
    """The number of pairs in a longrope dictionary that do not rotate, marked by `NO_ROTATION`."""
    if parameters.get("rope_type") != "longrope":
        return 0
    return sum(factor >= NO_ROTATION for factor in parameters.numbers("long_factor"))


def _closed_form(
    parameters: Fields, geometry: RopeGeometry, target_length: int, ratio: float
) -> RescaleFactors:
    def scheme(name: str, factor: float, *keys: str, **settings: float) -> RescaleFactors:
        # An absent parameter, or 0, means the default, as in transformers.
        given = {key: value for key in keys if (value := _positive(parameters, key))}
        spec = SchemeSpec(name=name, parameters={"factor": factor, **given, **settings})
        return scheme_factors(spec, geometry, target_length)

    match parameters.get("rope_type"):
        case "linear":
            return scheme("pi", ratio)
        case "dynamic":
            # The base grows with the length; these are the factors at the target.
            _require_two_pairs(geometry)
            return scheme("ntk", ratio * target_length / geometry.original_length - (ratio - 1))
        case "llama3":
            low, high = (_positive(parameters, key) for key in ("low_freq_factor", "high_freq_factor"))
            if low is None or high is None or low >= high:
                raise FactorsError(
                    f"its low_freq_factor is {low}, but must be below high_freq_factor, {high}"
                )
            return scheme("llama3", ratio, "low_freq_factor", "high_freq_factor")
        case "yarn":
            truncate = 1.0 if parameters.get("truncate", True) else 0.0
            own = scheme("yarn", ratio, "beta_fast", "beta_slow", truncate=truncate)
            return own.replace(attention_factor=_yarn_attention_factor(parameters, ratio))
        case _:
            _require_two_pairs(geometry)
            return scheme("ntk", _positive(parameters, "alpha") or 1.0)


def _positive(parameters: Fields, key: str) -> float | None:
    value = parameters.number(key)
    if value is not None and value < 0:
        raise FactorsError(f"its {key} is {value:g}, below 0")
    return value or None


def _require_two_pairs(geometry: RopeGeometry) -> None:
    if geometry.num_pairs < 2:
        raise FactorsError("it has one rotary pair, whose frequency does not depend on the base")


def _yarn_attention_factor(parameters: Fields, ratio: float) -> float:
    """The stated factor, or the quotient of DeepSeek's two scales, or YaRN's default."""
    stated = parameters.number("attention_factor")
    if stated is not None:
        return stated
    scale, scale_all = (_positive(parameters, key) for key in ("mscale", "mscale_all_dim"))
    growth = yarn_attention_factor(ratio) - 1
    if scale and scale_all:
        return (scale * growth + 1) / (scale_all * growth + 1)
    return growth + 1


def _longrope(
    parameters: Fields, geometry: RopeGeometry, target_length: int, ratio: float
) -> tuple[RescaleFactors, RescaleFactors]:
    if geometry.original_length < 2:
        raise FactorsError("its original window is 1 token")
    stated = parameters.number("attention_factor")
    if stated is None:
        stated = longrope_attention_factor(ratio, geometry.original_length)

    def factors(kind: str, length: int) -> RescaleFactors:
        return RescaleFactors.single(
            geometry=geometry,
            target_length=length,
            rescale_factors=[value for value in parameters.numbers(f"{kind}_factor") if value < NO_ROTATION],
            # Phi-MoE states an attention factor for each of the two sets.
            attention_factor=parameters.number(f"{kind}_mscale") or stated,
        )

    return factors("long", target_length), factors("short", geometry.original_length)
