"""Every closed-form scheme as RescaleFactors: the baselines, and the initial candidates of a search.

Notation: pair i rotates by theta_i radians per token and makes r_i = L theta_i / 2 pi turns over the window
L; s = L' / L is the extension ratio (`factor`); d is the rotary dimension. Each scheme is a function from
(geometry, s, parameters) to lambda, shape (num_pairs,), with its published attention factor.

`near-far` keeps the rotation of the training for distances below a window W (`window`, by default L / 4), and
maps the distances from W to L' onto those from W to L. At lengths within L it is `none`.

A plugin scheme is named `package.module:Name`: a function from (geometry, s), and keyword parameters, to
lambda. Its attention factor is 1, or the parameter `attention_factor`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance, RescaleFactors
from ropewalk.plugins import load_named, unknown_name
from ropewalk.rope.attention_factor import near_far_attention_factor, yarn_attention_factor

Vector = NDArray[np.float64]
Parameters = Mapping[str, float]

ROUNDING = 1e-12  # absolute, of a rescale factor


@dataclass(frozen=True, kw_only=True)
class SchemeSpec:
    """The name of a scheme and the given parameters, e.g. `yarn:factor=8,beta_fast=32`.

    Attributes:
        text: the text that was parsed, the label in tables and records.
    """

    name: str
    parameters: dict[str, float] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class _Scheme:
    rescale: Callable[[RopeGeometry, float, Parameters], Vector]
    defaults: Parameters = field(default_factory=dict)
    attention: Callable[[float], float] = lambda _: 1.0  # of both parts of near-far factors
    is_near_far: bool = False


def parse_scheme(text: str) -> SchemeSpec:
    """Parses `NAME` or `NAME:parameter=value,...`; NAME may be `package.module:Name`.

    Raises:
        SettingError: the scheme or a parameter is unknown, a value is not a number or out of its range, or a
            plugin scheme can't be imported.
    """
    name, _, tail = text.partition(":")
    if name not in _SCHEMES and tail and "=" not in tail.partition(":")[0]:
        attribute, _, tail = tail.partition(":")
        name = f"{name}:{attribute}"
    known = _known_parameters(name)
    parameters = {}
    for entry in filter(None, tail.split(",")):
        key, _, value = entry.partition("=")
        if key not in known:
            raise SettingError(f"The scheme {name} has no parameter {key!r}: use {', '.join(known)}.")
        try:
            parameters[key] = float(value)
        except ValueError:
            raise SettingError(f"`{key}` of {name} is {value!r}, but must be a number: {key}=8.") from None
    _check_parameters(name, parameters)
    return SchemeSpec(name=name, parameters=parameters, text=text)


def scheme_factors(spec: SchemeSpec | str, geometry: RopeGeometry, target_length: int) -> RescaleFactors:
    """Returns the factors of a scheme at `target_length` tokens.

    Without the parameter `factor` the extension ratio is target_length / original_length, at least 1.
    `dynamic-ntk` changes with the length, so its target is the length that the model reads.

    Example:
        yarn = scheme_factors("yarn:beta_fast=16", model.geometry, 32768)
        yarn.rescale_factors[0]  # lambda of each pair, fastest pair first
        yarn.attention_factor    # 0.1 ln s + 1

    Args:
        spec: a parsed scheme, or its text.
        geometry: the model's RoPE geometry.
        target_length: tokens.

    Raises:
        SettingError: see `parse_scheme`; or the `window` of `near-far` is not below the model's window.
    """
    spec = parse_scheme(spec) if isinstance(spec, str) else spec
    if spec.name == NEAR_FAR and target_length <= geometry.original_length:
        _near_window(geometry, spec.parameters)  # refuses a wrong one at each length
        spec = SchemeSpec(name="none", text=spec.text)
    scheme = _SCHEMES.get(spec.name) or _plugin_scheme(spec.name)
    reached = max(1.0, target_length / geometry.original_length)
    parameters = {**scheme.defaults, **spec.parameters}
    if spec.name == "dynamic-ntk":
        parameters["factor"] = parameters.get("factor", 1.0) * reached - (parameters.get("factor", 1.0) - 1)
    extension_ratio = parameters.pop("factor", reached)
    attention_factor = parameters.pop("attention_factor", scheme.attention(extension_ratio))
    near: dict[str, Any] = {}
    if scheme.is_near_far:
        near["near_window"] = _near_window(geometry, parameters)
        near["near_attention_factor"] = parameters.get(
            "near_attention_factor", scheme.attention(extension_ratio)
        )
    rescale_factors = scheme.rescale(geometry, extension_ratio, parameters)
    return RescaleFactors.single(
        geometry=geometry,
        target_length=target_length,
        rescale_factors=_without_rounding(rescale_factors),
        attention_factor=attention_factor,
        **near,
        provenance=Provenance(strategy=spec.text or spec.name, base="native"),
    )


def _without_rounding(rescale_factors: Vector) -> Vector:
    """Exactly 1 for a pair that the scheme leaves unchanged; rounding may give 1 - 1e-16."""
    return np.where((rescale_factors < 1) & (rescale_factors > 1 - ROUNDING), 1.0, rescale_factors)


def _known_parameters(name: str) -> list[str]:
    if name in _SCHEMES:
        scheme = _SCHEMES[name]
        return [*_COMMON, *(_OF_NEAR_FAR if scheme.is_near_far else ()), *scheme.defaults]
    if ":" not in name:
        raise unknown_name(name, _SCHEMES, "scheme", "schemes")
    return [*_COMMON, *_plugin_parameters(name)]


def _plugin_parameters(name: str) -> list[str]:
    """The parameters of a plugin scheme besides geometry and ratio."""
    function = load_named(name, "scheme")
    if not callable(function):
        raise SettingError(
            f"The scheme {name} is {function!r}, but must be a function from (geometry, extension_ratio) to "
            f"one rescale factor per pair."
        )
    try:
        return list(inspect.signature(function).parameters)[2:]
    except (TypeError, ValueError):  # some functions written in C have no signature
        return []


def _plugin_scheme(name: str) -> "_Scheme":
    """A plugin scheme; each of its errors becomes one line."""
    function = load_named(name, "scheme")

    def rescale(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
        try:
            found = np.asarray(function(geometry, s, **parameters), dtype=np.float64)
        except Exception as error:  # the function may raise anything
            raise SettingError(
                f"The scheme {name} failed ({type(error).__name__}: {error}): it must return one rescale "
                f"factor per pair for (geometry, extension_ratio)."
            ) from error
        if found.shape != (geometry.num_pairs,):
            raise SettingError(
                f"The scheme {name} returned the shape {found.shape}, but must return "
                f"{(geometry.num_pairs,)}: one rescale factor per pair."
            )
        if (found < 1 - ROUNDING).any():
            raise SettingError(
                f"The scheme {name} returned the rescale factor {found.min():g}, but each must be at least 1."
            )
        return found

    return _Scheme(rescale=rescale)


def _check_parameters(name: str, parameters: Parameters) -> None:
    is_plugin = name not in _SCHEMES
    for key, value in parameters.items():
        if not math.isfinite(value):
            raise SettingError(f"`{key}` of {name} is {value}, but must be finite.")
        if key == "factor" and value < 1:
            raise SettingError(f"`factor` of {name} is {value:g}, but an extension ratio is at least 1.")
        is_own = is_plugin and key not in _COMMON
        if key not in ("factor", "truncate") and not is_own and value <= 0:
            raise SettingError(f"`{key}` of {name} is {value:g}, but must be above 0.")
    if name == NEAR_FAR and parameters.get("window", 1) % 1:
        raise SettingError(f"`window` of {name} is {parameters['window']:g}, but must be whole tokens.")
    merged = parameters if is_plugin else {**_SCHEMES[name].defaults, **parameters}
    for smaller, larger in (("beta_slow", "beta_fast"), ("low_freq_factor", "high_freq_factor")):
        if smaller in merged and merged[smaller] >= merged[larger]:
            given = f"`{smaller}` of {name} is {merged[smaller]:g}"
            raise SettingError(f"{given}, but must be below {larger}, {merged[larger]:g}.")


def _none(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    return np.ones(geometry.num_pairs)


def _pi(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    return np.full(geometry.num_pairs, s)


def _ntk(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    # The base becomes theta * s^(d / (d - 2)). A single pair is fastest and slowest: it is interpolated.
    exponents = np.arange(geometry.num_pairs) * 2 / max(1, geometry.rotary_dim - 2)
    return s**exponents if geometry.num_pairs > 1 else _pi(geometry, s, parameters)


def _by_parts(s: float, kept: Vector) -> Vector:
    """1 / lambda = (1 - kept) / s + kept; `kept` is 1 for an unchanged pair, 0 for one interpolated by s."""
    return 1 / ((1 - kept) / s + kept)


def _yarn_paper(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    slow, fast = parameters["beta_slow"], parameters["beta_fast"]
    return _by_parts(s, np.clip((geometry.turns() - slow) / (fast - slow), 0, 1))


def _yarn_coded(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    low, high = (geometry.pair_of_turns(parameters[key]) for key in ("beta_fast", "beta_slow"))
    if parameters["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, geometry.rotary_dim - 1)
    width = high - low or 0.001
    return _by_parts(s, 1 - np.clip((np.arange(geometry.num_pairs) - low) / width, 0, 1))


def _llama3(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    return _by_parts(s, np.clip((geometry.turns() - low) / (high - low), 0, 1))


def _mrrope(geometry: RopeGeometry, s: float, parameters: Parameters, *, progressive: bool) -> Vector:
    turns = geometry.turns()
    band = (turns <= parameters["beta_fast"]) & (turns >= parameters["beta_slow"])
    num_band = int(band.sum())
    if num_band == 0:
        return np.where(turns > parameters["beta_fast"], 1.0, s)
    q = np.cumsum(band)
    return s ** (q * (q + 1) / (num_band * (num_band + 1)) if progressive else q / num_band)


def _mrrope_uni(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    return _mrrope(geometry, s, parameters, progressive=False)


def _mrrope_pro(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    return _mrrope(geometry, s, parameters, progressive=True)


def _near_window(geometry: RopeGeometry, parameters: Parameters) -> int:
    length = geometry.original_length
    window = int(parameters.get("window", max(1, length // 4)))
    if not 1 <= window < length:
        raise SettingError(
            f"`window` of {NEAR_FAR} is {window} tokens, but must be from 1 to below the model's window of "
            f"{length}: give another `window`."
        )
    return window


def _near_far(geometry: RopeGeometry, s: float, parameters: Parameters) -> Vector:
    # lambda = (L' - W) / (L - W) for every pair: distance L' gets the angle of L
    length, window = geometry.original_length, _near_window(geometry, parameters)
    return np.full(geometry.num_pairs, (s * length - window) / (length - window))


NEAR_FAR = "near-far"
_OF_NEAR_FAR = ("window", "near_attention_factor")  # their defaults depend on the model and the ratio
_COMMON = ("factor", "attention_factor")
_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}

_SCHEMES = {
    "none": _Scheme(rescale=_none),  # the model as it was trained
    "pi": _Scheme(rescale=_pi),  # position interpolation (2306.15595): lambda = s for every pair
    "ntk": _Scheme(rescale=_ntk),  # NTK-aware: a larger base, lambda = s for the slowest pair
    "dynamic-ntk": _Scheme(rescale=_ntk),  # NTK-aware with the ratio of each length
    "yarn": _Scheme(
        rescale=_yarn_coded,
        # YaRN as coded: a ramp over the pair index
        defaults={**_BETAS, "truncate": 1.0},
        attention=yarn_attention_factor,
    ),
    "yarn-paper": _Scheme(
        rescale=_yarn_paper,
        # YaRN as published (2309.00071, Def. 2): a ramp over the turns
        defaults=_BETAS,
        attention=yarn_attention_factor,
    ),
    "llama3": _Scheme(
        rescale=_llama3,
        # Llama 3's ramp over the turns, from 1 to 4
        defaults={"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    ),
    "mrrope-uni": _Scheme(
        rescale=_mrrope_uni,
        # MrRoPE-Uni (2601.22181): even steps over the band of 32 to 1 turns
        defaults=_BETAS,
        attention=yarn_attention_factor,
    ),
    "mrrope-pro": _Scheme(
        rescale=_mrrope_pro,
        # MrRoPE-Pro (2601.22181): growing steps over that band
        defaults=_BETAS,
        attention=yarn_attention_factor,
    ),
    NEAR_FAR: _Scheme(
        rescale=_near_far,
        # trained rotation below the window, position interpolation beyond it
        attention=near_far_attention_factor,
        is_near_far=True,
    ),
}

SCHEME_NAMES = tuple(_SCHEMES)
# Every scheme with plain factors, because a search evaluates and writes no others; and YaRN without its
# attention factor, because a search has none by default.
CLOSED_FORMS = (*(name for name in SCHEME_NAMES if name != NEAR_FAR), "yarn:attention_factor=1")
