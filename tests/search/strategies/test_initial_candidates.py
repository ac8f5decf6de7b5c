"""Where strategies begin, and which n-hats are tried on the best."""

from dataclasses import replace

import numpy as np
import pytest
from quadratic import make_space

from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.named_spaces import make_space as named_space
from ropewalk.search.strategies.initial_candidates import first_candidates, with_start_tokens

# The paper's list without 0.
OTHERS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)


@pytest.mark.parametrize(
    ("most", "counts"),
    [
        (0, ()),
        (-1, ()),
        (1, (20,)),
        (2, (8, 64)),
        (4, (4, 20, 64)),
        (6, (2, 12, 24, 64)),
        (12, (2, 8, 16, 24, 32, 128)),
        (13, OTHERS),
        (100, OTHERS),
    ],
)
def test_start_tokens_are_spread_over_the_list_from_its_middle(most, counts):
    space = make_space()
    best = space.candidate(np.arange(12), 0, 1.0)
    found = with_start_tokens(space, best, most)
    assert tuple(candidate.num_start_tokens for candidate in found) == counts
    assert all(candidate.without_start_tokens() == best for candidate in found)


def test_the_best_s_own_start_tokens_are_not_tried_again():
    space = make_space()
    found = with_start_tokens(space, space.candidate(np.arange(12), 8, 1.0), 13)
    assert [c.num_start_tokens for c in found] == [0, *(count for count in OTHERS if count != 8)]


def test_known_factors_come_first_and_what_coincides_comes_once():
    space = make_space()
    longer = scheme_factors("yarn", space.geometry, 4096)
    tuned = scheme_factors("pi", space.geometry, 4096)
    short = replace(space, target_length=512, long_factors=longer, trained_factors=tuned)
    snapped = [short.snap(factors) for factors in (longer, tuned)]
    found = first_candidates(short, ("pi", "pi", "ntk"))
    assert found[:2] == snapped
    assert len(found) == 4
    assert len(set(found)) == 4


def test_above_a_floor_two_that_climb_stand_beside_closed_forms():
    space = named_space("longrope2", make_space())
    *_, half, whole = first_candidates(space, ("pi",))
    assert space.levels(half)[[0, -1]].tolist() == [0, round(space.highest_level / 2)]
    assert space.levels(whole)[[0, -1]].tolist() == [0, space.highest_level]
    assert (np.diff(space.levels(whole)) > 0).all()
