"""What strategies share: where they begin, and n-hat, which none of them moves along."""

from collections.abc import Sequence
from dataclasses import replace

from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.space import Candidate, SearchSpace


def first_candidates(space: SearchSpace, schemes: Sequence[str]) -> list[Candidate]:
    """Each scheme's nearest candidate, with n-hat 0; those that coincide come once.

    For readjustment, what the model turns by at its longest comes first. Within the trained window every
    scheme leaves each pair alone, so that the search begins at the better of the two ends.

    Raises:
        SettingError: no such scheme.
    """
    found = [space.snap(scheme_factors(name, space.geometry, space.target_length)) for name in schemes]
    if space.longer is not None:
        found.insert(0, space.snap(space.longer))
    return list(dict.fromkeys(found))


def with_start_tokens(space: SearchSpace, best: Candidate, most: int) -> list[Candidate]:
    """The best candidate with other n-hats, spread over the list if that is longer than `most`."""
    others = [count for count in space.start_tokens if count != best.num_start_tokens]
    if most <= 0:
        return []
    stride = max(1, -(-len(others) // most))
    return [replace(best, num_start_tokens=count) for count in others[stride // 2 :: stride]]
