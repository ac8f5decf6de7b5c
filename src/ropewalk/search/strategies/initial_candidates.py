"""Initial candidates, and candidates with other n-hats, for all strategies."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.space import Candidate, SearchSpace

# YaRN as published, with its ramp moved as a whole by an octave of turns, and started two octaves later.
INITIAL_SCHEMES = ("yarn", "yarn:beta_fast=16,beta_slow=0.5", "yarn:beta_fast=8")
CLIMBS = (0.5, 1.0)  # of the way from the smallest lambda to the largest


def first_candidates(space: SearchSpace, schemes: Sequence[str]) -> list[Candidate]:
    """Each scheme's nearest candidate, with n-hat 0; those that coincide come once.

    Where the smallest lambda is above 1 (LongRoPE2's space), closed forms are at or just above it, and a
    constant vector leaves mutations no values between those of two pairs. Vectors that rise evenly from the
    smallest lambda are added there.

    Near-far spaces have closed forms of their own instead: `near_far_schemes`.

    For readjustment, the factors of the model at its longest come first, then those that it was trained with.
    Within the trained window every scheme leaves each pair as it is, so the search starts from the best of
    three candidates. In a second search the factors of the training come last: they are made for a shorter
    length, and the first candidate is the one that keys are kept under.

    Raises:
        SettingError: no such scheme.
    """
    names = near_far_schemes(space) if space.is_near_far else schemes
    found = [space.snap(scheme_factors(name, space.geometry, space.target_length)) for name in names]
    if space.floor > 1:
        found += [_climbing(space, share, found[0].attention_factor) for share in CLIMBS]
    known = [
        space.snap(factors) for factors in (space.long_factors, space.trained_factors) if factors is not None
    ]
    in_order = [*found, *known] if space.long_factors is None else [*known, *found]
    return list(dict.fromkeys(in_order))


def near_far_schemes(space: SearchSpace) -> list[str]:
    """The closed form of each near window, and one of them without attention factors."""
    names = [f"near-far:window={window}" for window in space.near_windows]
    return [*names, f"{names[len(names) // 2]},attention_factor=1,near_attention_factor=1"]


def _climbing(space: SearchSpace, share: float, attention_factor: float) -> Candidate:
    levels = np.linspace(0, share * space.highest_level, space.num_knots).round().astype(np.int64)
    return space.candidate(levels, 0, attention_factor)


def with_start_tokens(space: SearchSpace, best: Candidate, most: int) -> list[Candidate]:
    """The best candidate with other n-hats, spread over the list if that is longer than `most`."""
    others = [count for count in space.start_tokens if count != best.num_start_tokens]
    if most <= 0:
        return []
    stride = max(1, -(-len(others) // most))
    return [replace(best, num_start_tokens=count) for count in others[stride // 2 :: stride]]
