"""Reading document by document: what failures cost, and the gradient."""

import dataclasses
import math

import numpy as np
import pytest
from quadratic import RecordingObjective, make_space, measure_of_nats

from ropewalk.search.evaluation import Evaluator
from ropewalk.search.trial import Query

SPACE = dataclasses.replace(make_space(), start_tokens=(0,))
NUM_DOCUMENTS = 6


def at(level):
    return SPACE.candidate(np.full(12, level), 0, 1.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_failure_costs_what_was_read_of_it(wrong):
    class FailsAtTheThird(RecordingObjective):
        def measure_document(self, task):
            return measure_of_nats(wrong) if task.document == 2 else super().measure_document(task)

    found = Evaluator(FailsAtTheThird(SPACE, NUM_DOCUMENTS)).evaluate(Query(candidate=at(3)))
    assert (found.value, found.failure) == (None, f"the value is {wrong}")
    assert found.cost == pytest.approx(3 / NUM_DOCUMENTS)


def test_out_of_memory_in_a_gradient_is_a_failure_of_its_full_cost():
    class Full(RecordingObjective):
        def measure_document(self, task):
            raise MemoryError

    query = Query(candidate=at(3), documents=(0, 4), gradient=True)
    found = Evaluator(Full(SPACE, NUM_DOCUMENTS)).evaluate(query)
    assert (found.failure, found.gradient) == ("out of memory", None)
    assert found.cost == pytest.approx(3 * 2 / NUM_DOCUMENTS)


def test_a_gradient_that_is_not_finite_is_a_failure():
    class Steep(RecordingObjective):
        def measure_document(self, task):
            return dataclasses.replace(super().measure_document(task), by_log_attention=math.inf)

    space = dataclasses.replace(SPACE, attention_factors=(1.0, 1.1))
    found = Evaluator(Steep(space, 2)).evaluate(Query(candidate=at(3), gradient=True))
    assert (found.value, found.failure) == (None, "the gradient is not finite")


@pytest.mark.parametrize("documents", [None, (1,), (5, 0, 3)])
def test_the_objective_s_gradient_is_that_of_ln_value(documents):
    """Central differences in the space's coordinates, with the attention factor searched."""
    space = dataclasses.replace(SPACE, attention_factors=(1.0, 1.1, 1.2), step=1e-9, monotone=False)
    objective = RecordingObjective(space, NUM_DOCUMENTS)
    evaluator = Evaluator(objective)
    middle = space.candidate(np.full(12, 3 * 10**8), 0, 1.0)
    asked = Query(candidate=middle, documents=documents, gradient=True)
    gradient = np.array(evaluator.evaluate(asked).gradient)
    here = space.coordinates(middle)

    def ln_value(coordinates):
        lambdas = tuple(np.exp(coordinates[:-1]))
        moved = dataclasses.replace(
            middle, rescale_factors=lambdas, attention_factor=float(np.exp(coordinates[-1]))
        )
        return math.log(evaluator.evaluate(Query(candidate=moved, documents=documents)).value)

    for index, row in enumerate(np.eye(13) * 1e-4):
        slope = (ln_value(here + row) - ln_value(here - row)) / 2e-4
        assert gradient[index] == pytest.approx(slope, rel=1e-5, abs=1e-5), index
