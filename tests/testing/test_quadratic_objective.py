"""The objective has the minimum and the gradient that its docstring states; the spaces are all different."""

import math

import numpy as np
import pytest

from ropewalk.search.space import Candidate
from ropewalk.testing import QuadraticObjective, spaces
from ropewalk.testing.quadratic_objective import BEST_ATTENTION


def candidate_at(objective, shift=0.0, attention=BEST_ATTENTION, start=1):
    space = objective.space
    minimum = (np.arange(space.num_pairs) / space.num_pairs) ** 2 * math.log(space.extension_ratio)
    lambdas = tuple(np.exp(minimum + shift).tolist())
    return Candidate(rescale_factors=lambdas, num_start_tokens=start, attention_factor=attention)


def mean_nats(objective, candidate):
    factors = objective.factors(candidate)
    return np.mean([objective.nats(factors, document) for document in range(objective.num_documents)])


@pytest.mark.parametrize(
    "changed", [{"shift": 0.01}, {"shift": -0.01}, {"attention": 1.12}, {"start": 0}, {"start": 4}]
)
def test_the_minimum_is_where_the_docstring_says(changed):
    objective = QuadraticObjective(spaces()["full, free, all searched"])
    lowest = mean_nats(objective, candidate_at(objective))
    assert mean_nats(objective, candidate_at(objective, **changed)) > lowest + 1e-4


@pytest.mark.parametrize("space", ["full, free, all searched", "spline, monotone, all searched"])
def test_gradients_are_those_of_the_values(space):
    space = spaces()[space]
    objective = QuadraticObjective(space)
    at = np.append(np.full(space.num_knots, 0.7), math.log(1.04))

    def measured(coordinates):
        lambdas = tuple(np.exp(space.basis @ coordinates[:-1]).tolist())
        candidate = Candidate(
            rescale_factors=lambdas, num_start_tokens=0, attention_factor=math.exp(coordinates[-1])
        )
        (measure,) = objective.measure(candidate, [2], gradient=True)
        return measure

    def nats(coordinates):
        return measured(coordinates).sums["quadratic"].nll_sum_nats

    gradient = objective.gradient([measured(at)])
    for index in range(len(at)):
        step = np.zeros(len(at))
        step[index] = 1e-5
        slope = (nats(at + step) - nats(at - step)) / 2e-5
        assert gradient[index] == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_every_space_has_its_own_name_and_rules():
    rules = {
        name: (space.knots, space.floor, space.monotone, space.start_tokens, space.attention_factors,
               space.target_length)
        for name, space in spaces().items()
    }  # fmt: skip
    assert len(rules) == len(set(rules.values())) == 15
