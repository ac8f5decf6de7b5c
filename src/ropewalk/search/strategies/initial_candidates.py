"""What strategies share: where they begin, and n-hat, which none of them moves along."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.space import Candidate, SearchSpace

# YaRN's ramp as it is published, moved as a whole by an octave of turns, and begun two octaves later.
RAMPS = ("yarn", "yarn:beta_fast=16,beta_slow=0.5", "yarn:beta_fast=8")
CLIMBS = (0.5, 1.0)  # of the way from the smallest lambda to the largest


def first_candidates(space: SearchSpace, schemes: Sequence[str]) -> list[Candidate]:
    """Each scheme's nearest candidate, with n-hat 0; those that coincide come once.

    Where lambda has a floor above 1 (LongRoPE2's space), closed forms lie on the floor or just above it, and
    a vector that is flat there leaves mutations no room between neighbours. Vectors that climb evenly from
    the floor stand beside them then.

    For readjustment, what the model turns by at its longest comes first, then what it was tuned with, and so
    knows best. Within the trained window every scheme leaves each pair alone, so that the search begins at
    the best of three places.

    Raises:
        SettingError: no such scheme.
    """
    found = [space.snap(scheme_factors(name, space.geometry, space.target_length)) for name in schemes]
    if space.floor > 1:
        found += [_climbing(space, share, found[0].attention_factor) for share in CLIMBS]
    known = [
        space.snap(factors) for factors in (space.long_factors, space.trained_factors) if factors is not None
    ]
    return list(dict.fromkeys([*known, *found]))


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
