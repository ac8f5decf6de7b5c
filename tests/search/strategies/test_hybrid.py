"""What counts of the polish: steps around the best, longer after a success, shorter after failures."""

import math
from dataclasses import replace

import numpy as np
import pytest
from quadratic import make_space, strategy_for

from ropewalk.search.trial import Trial

FINE = replace(make_space(), step=1e-6, monotone=False, start_tokens=(0,))


def told(strategy, query, value):
    """Tell a value of all documents, or a part of them for a step of the descent."""
    gradient = (0.0,) * (strategy.space.num_knots + 1) if query.gradient else None
    strategy.tell(
        Trial(
            index=0, candidate=query.candidate, value=value, failure=None, seconds=0.0, cost=1.0,
            documents=query.documents, gradient=gradient,
        )
    )  # fmt: skip


def polishing(space, **settings):
    """A strategy with the first query of its polish, and the best before it, far from every bound."""
    strategy = strategy_for(
        "hybrid", space, budget=20, num_documents=4, settings={"schemes": ("pi:factor=3",), **settings}
    )
    start = query = strategy.ask()
    while not strategy._polishing:
        told(strategy, query, 2.0)
        query = strategy.ask()
    return strategy, query, start.candidate


def length(space, one, other):
    return float(np.linalg.norm(space.coordinates(one) - space.coordinates(other)))


def test_a_success_makes_the_next_step_longer_and_a_failure_shorter():
    """By the 1/5 rule: one success makes up for four failures."""
    lengths = {}
    for value in (1.0, 3.0):
        strategy, query, best = polishing(FINE)
        told(strategy, query, value)
        best = query.candidate if value == 1.0 else best
        lengths[value] = length(FINE, strategy.ask().candidate, best)
    assert lengths[1.0] / lengths[3.0] == pytest.approx(math.exp(0.8 + 0.2), rel=1e-3)


def test_one_success_in_five_leaves_the_step_as_it_is():
    strategy, query, _ = polishing(FINE)
    before = strategy._step
    for value in (3.0, 3.0, 1.0, 3.0, 3.0):
        told(strategy, query, value)
        query = strategy.ask()
    assert strategy._step == pytest.approx(before)
    assert before == 0.03


def test_steps_go_out_from_the_best_and_equal_values_are_no_success():
    strategy, query, best = polishing(FINE)
    told(strategy, query, 2.0)
    away = length(FINE, strategy.ask().candidate, best)
    assert 0.01 < away < 0.3
    assert strategy._step < 0.03


def test_start_tokens_are_redrawn_now_and_then():
    space = replace(FINE, start_tokens=(0, 1, 4, 16))
    for probability, share in ((0.0, 0.0), (1.0, 0.75), (0.25, 0.25 * 0.75)):
        strategy, _, _ = polishing(space, start_token_probability=probability)
        counts = [strategy.ask().candidate.num_start_tokens for _ in range(300)]
        assert np.mean(np.array(counts) > 0) == pytest.approx(share, abs=0.06)
        assert set(counts) == (set(space.start_tokens) if probability else {0})


def test_the_polish_has_its_share_of_the_budget():
    """Of 100 values 30: the descent, with its start and ends, has 70."""
    strategy = strategy_for(
        "hybrid", FINE, budget=100, num_documents=4, settings={"schemes": ("pi:factor=3",)}
    )
    spent = 0.0
    while True:
        query = strategy.ask()
        if strategy._polishing:
            break
        spent += 0.75 if query.gradient else 1.0
        told(strategy, query, 2.0)
    assert 66 < spent <= 70


def test_a_searched_attention_factor_is_moved_by_its_own_rate():
    space = replace(FINE, attention_factors=tuple(round(0.9 + k * 1e-5, 5) for k in range(20_000)))
    strategy, _, best = polishing(space)
    moved = [space.coordinates(strategy.ask().candidate) - space.coordinates(best) for _ in range(300)]
    of_lambda, of_attention = np.std(np.array(moved)[:, :-1]), np.std(np.array(moved)[:, -1])
    assert of_lambda == pytest.approx(0.03, rel=0.1)
    assert of_attention == pytest.approx(0.3 * 0.03, rel=0.2)


def test_the_state_of_its_generator_tells_the_draws_of_its_descent_too():
    """Which document each step reads is drawn."""
    strategy = strategy_for("hybrid", FINE, budget=100, num_documents=4, settings={"schemes": ("pi",)})
    told(strategy, strategy.ask(), 2.0)
    before = strategy.generator_state()
    assert strategy.ask().gradient
    assert strategy.generator_state() != before


def test_partial_values_of_the_descent_are_not_the_best():
    strategy = strategy_for(
        "hybrid", FINE, budget=20, num_documents=4, settings={"schemes": ("pi:factor=3",)}
    )
    start = query = strategy.ask()
    partial = 1.0
    while not strategy._polishing:
        partial -= 0.01
        gradient = (1.0,) * (FINE.num_knots + 1) if query.gradient else None
        trial = Trial(
            index=0, candidate=query.candidate, value=partial if query.gradient else 2.0, failure=None,
            seconds=0.0, cost=1.0, documents=query.documents, gradient=gradient,
        )  # fmt: skip
        strategy.tell(trial)
        last, query = query, strategy.ask()
    assert length(FINE, last.candidate, start.candidate) > 0.3
    assert length(FINE, query.candidate, start.candidate) < 0.3
