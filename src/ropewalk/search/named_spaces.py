"""make_space: the full space, the spline and LongRoPE2's space, by name."""

from dataclasses import replace

import numpy as np

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry, TunedGeometry
from ropewalk.search.space import FINE_STEP, SPACE_NAMES, SearchSpace

# The pairs with a knot make this number of turns over the trained window; the slowest pair has one too.
FASTEST_KNOT_TURNS, SLOWEST_KNOT_TURNS = 8.0, 0.35
NEAR_FAR_KNOTS = 6
FASTEST_TUNED_KNOT_TURNS = 32.0  # over a window that a model was trained to


def make_space(
    name: str,
    space: SearchSpace,
    *,
    num_knots: int | None = None,
    critical_pair: int | None = None,
    monotone: bool = True,
) -> SearchSpace:
    """Returns the space of a name.

    Args:
        name: one of `SPACE_NAMES`.
        space: the full space; its target length, n-hat choices and attention factors are kept.
        num_knots: of `spline`; by default `default_num_knots`.
        critical_pair: of `longrope2`; by default `real_critical_pair`.
        monotone: whether lambda may never fall from pair to pair.

    Raises:
        SettingError: no such space, or a setting that it does not have.
    """
    if name not in SPACE_NAMES:
        raise SettingError(f"There is no space {name!r}; the spaces are {', '.join(SPACE_NAMES)}.")
    for setting, value, owner in (
        ("knots", num_knots, "spline"),
        ("critical pair", critical_pair, "longrope2"),
    ):
        if value is not None and name != owner:
            raise SettingError(f"The space {name} has no {setting}: leave it out, or give --space {owner}.")
    if name == "spline":
        if space.is_near_far:
            return replace(
                space, knots=near_far_knots(space.geometry, num_knots), step=FINE_STEP, monotone=False
            )
        knots = spline_knots(space.geometry, num_knots or default_num_knots(space.geometry))
        return replace(space, knots=knots, step=FINE_STEP, monotone=monotone)
    if name == "longrope2":
        if space.is_near_far:
            raise SettingError(
                "The space longrope2 leaves fast pairs alone, as a near window does for near tokens: leave "
                "one of the two out."
            )
        if space.long_factors is not None:
            raise SettingError(
                "The space longrope2 begins at lambda s, which bounds nothing at short lengths: readjust in "
                "`spline` or `full`."
            )
        first = real_critical_pair(space.geometry) if critical_pair is None else critical_pair
        if not 1 <= first < space.num_pairs:
            raise SettingError(
                f"The critical pair is {first}, but must be from 1 to {space.num_pairs - 1}, the last one."
            )
        return replace(
            space,
            knots=tuple(range(first, space.num_pairs)),
            floor=space.extension_ratio,
            ceiling=2.0,
            monotone=monotone,
        )
    return replace(space, monotone=monotone)


def near_far_knots(geometry: RopeGeometry, num_knots: int | None) -> tuple[int, ...]:
    """The knots of the far part: evenly spaced pairs from the fastest to the slowest, six by default.

    The closed form slows all pairs alike, and factors may fall from pair to pair: far keys have no use for
    the fast pairs, which count single tokens.

    Raises:
        SettingError: more knots than pairs.
    """
    wanted = min(NEAR_FAR_KNOTS, geometry.num_pairs) if num_knots is None else num_knots
    if wanted > geometry.num_pairs:
        raise SettingError(
            f"{wanted} knots were requested, but there are places for 1 to {geometry.num_pairs}, one for "
            f"each pair."
        )
    return tuple(round(float(pair)) for pair in np.linspace(0, geometry.num_pairs - 1, wanted))


def default_num_knots(geometry: RopeGeometry) -> int:
    """Ten, or the number of pairs that can be knots if that is smaller."""
    return min(10, geometry.num_pairs - _first_knot(geometry))


def spline_knots(geometry: RopeGeometry, num_knots: int) -> tuple[int, ...]:
    """The knots: the slowest pair, and others where pairs make from 8 to 0.35 turns over the window.

    In this range pairs change from having shown all their angles in training to having shown only a part.
    Slower pairs are best slowed nearly alike. Faster ones get no knot: the loss along them is rugged, for
    they turn many times within the text, and they are best left nearly unchanged, as on NTK's curve to the
    first knot. The places are even in ln(turns), so even in pairs.

    Over a window that a model was trained to, many more pairs turn fast, and it has just been trained with
    these: a curve to the pair with 8 turns would slow all of them down. There knots begin at 32 turns, where
    YaRN's ramp does, and faster pairs can stay unchanged.

    Raises:
        SettingError: no knot, or more than there are places.
    """
    turns, last = geometry.turns(), geometry.num_pairs - 1
    first = _first_knot(geometry)
    if not 1 <= num_knots <= last - first + 1:
        raise SettingError(
            f"{num_knots} knots were requested, but there are places for 1 to {last - first + 1}, "
            f"pairs {first} to {last}."
        )
    slowest = max(first, int(np.abs(np.log(turns / SLOWEST_KNOT_TURNS)).argmin()))
    knots = sorted({round(float(pair)) for pair in np.linspace(first, slowest, num_knots - 1)} | {last})
    while len(knots) < num_knots:  # where places coincide, halve the widest gap
        widest = max(range(len(knots) - 1), key=lambda i: knots[i + 1] - knots[i])
        knots.insert(widest + 1, (knots[widest] + knots[widest + 1]) // 2)
    return tuple(knots)


def _first_knot(geometry: RopeGeometry) -> int:
    """The pair with about 8 turns over the window, or 32; never the fastest pair, and never the slowest."""
    fastest = FASTEST_TUNED_KNOT_TURNS if isinstance(geometry, TunedGeometry) else FASTEST_KNOT_TURNS
    nearest = int(np.abs(np.log(geometry.turns() / fastest)).argmin())
    return max(1, min(nearest, geometry.num_pairs - 2))


def theoretical_critical_pair(geometry: RopeGeometry) -> int:
    """The first pair whose period exceeds the window: ceil(d/2 log_theta(L / 2 pi)) (LongRoPE2, Sec. 3.1)."""
    return geometry.first_unfinished_pair


def real_critical_pair(geometry: RopeGeometry) -> int:
    """Where rescaling by s should begin, an estimate: 5/6 of the theoretical critical pair.

    High pairs are under-trained, so the real one is lower; LongRoPE2 found 30 for 35 (LLaMA3-8B) and 25 for
    31 (Phi3-mini), 0.86 and 0.81 of it.
    """
    return min(max(1, round(theoretical_critical_pair(geometry) * 5 / 6)), geometry.num_pairs - 1)
