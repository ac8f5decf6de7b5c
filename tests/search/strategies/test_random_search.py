"""Uniform draws: every level, in order where they must be, and every choice of the lists."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from quadratic import make_space, strategy_for

COARSE = replace(make_space(), step=0.9, start_tokens=(0, 1, 4), attention_factors=(1.0, 1.1, 1.2, 1.3))


def drawn(space, count):
    strategy = strategy_for("random", space, budget=count)
    candidates = [strategy.ask().candidate for _ in range(count)]
    return candidates, np.array([space.levels(candidate) for candidate in candidates])


def test_every_level_is_as_likely_as_the_others():
    space = replace(COARSE, monotone=False)
    _, levels = drawn(space, 1000)
    counts = Counter(levels.ravel().tolist())
    assert sorted(counts) == list(range(space.highest_level + 1)) == list(range(11))
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_in_a_monotone_space_draws_are_sorted():
    """So the k-th of n pairs has the mean of the k-th smallest of n uniform draws."""
    space = make_space()
    _, levels = drawn(space, 1000)
    expected = np.arange(1, 13) / 13
    assert levels.mean(axis=0) / space.highest_level == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("of", ["num_start_tokens", "attention_factor"])
def test_every_choice_is_as_likely_as_the_others(of):
    candidates, _ = drawn(COARSE, 1000)
    counts = Counter(getattr(candidate, of) for candidate in candidates)
    choices = COARSE.start_tokens if of == "num_start_tokens" else COARSE.attention_factors
    assert set(counts) == set(choices)
    assert max(counts.values()) < 1.3 * min(counts.values())
