"""The quadratic objective of `ropewalk.testing`, with a record of its candidates or with other values."""

import json
import math
import time

from ropewalk import testing
from ropewalk.evaluate.nll import NllSum
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.search.budget import strategy_budget
from ropewalk.search.loop import SearchLoop
from ropewalk.search.meter import DocumentMeasure
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.strategies import Task, make_strategy
from ropewalk.store import ChecksummedLines


def journal_values(path):
    """The values of a journal's lines, to be changed and written by `write_journal`."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return [{key: value for key, value in line.items() if key != "checksum"} for line in lines]


def write_journal(path, values, version=2):
    """A journal of these values, with right checksums where its version has them."""
    lines = ChecksummedLines(version)
    path.write_bytes(b"".join(lines.write(line) for line in [values[0] | {"version": version}, *values[1:]]))


def make_space(num_pairs=12):
    geometry = RopeGeometry(
        head_dim=2 * num_pairs, rotary_dim=2 * num_pairs, rope_theta=625.0, original_length=256, num_layers=2
    )
    return SearchSpace(geometry=geometry, target_length=2048)


def measure_of_nats(nats):
    """Of a document of the quadratic objective, without a gradient."""
    return DocumentMeasure(sums={"quadratic": NllSum(nll_sum_nats=nats, num_tokens=1)})


class RecordingObjective(testing.QuadraticObjective):
    """Has one document by default; `tasks` has what was measured."""

    def __init__(self, space, num_documents=1, *, seconds=0.0, **settings):
        super().__init__(space, num_documents, **settings)
        self.seconds = seconds
        self.tasks = []

    def measure_document(self, task):
        time.sleep(self.seconds)
        self.tasks.append(task)
        return super().measure_document(task)


class Valued(RecordingObjective):
    """Any function of the candidate as its value."""

    def __init__(self, space, value_of, **settings):
        super().__init__(space, **settings)
        self.value_of = value_of

    def measure_document(self, task):
        self.tasks.append(task)
        candidate = Candidate(
            rescale_factors=task.factors.rescale_factors[0],
            num_start_tokens=task.factors.num_start_tokens,
            attention_factor=task.factors.attention_factor,
        )
        return measure_of_nats(math.log(self.value_of(candidate)))


def strategy_for(
    name, space, *, seed=0, budget=100, settings=None, num_documents=1, evaluation_cost=1.0, gradient_cost=3.0
):
    """A strategy with a budget of its own."""
    task = Task(
        space=space,
        seed=seed,
        budget=budget,
        num_documents=num_documents,
        gradient_cost=gradient_cost,
        evaluation_cost=evaluation_cost,
    )
    return make_strategy(name, task, settings)


def search_on(name, objective, journal=None, *, seed=0, budget=100, settings=None, **how):
    """A search from its front, without a model."""
    left = strategy_budget(
        budget, objective, objective.space, how.get("early_stopping"), how.get("unconstrained")
    )
    strategy = strategy_for(
        name, objective.space, seed=seed, budget=left, settings=settings,
        num_documents=objective.num_documents, evaluation_cost=objective.cost,
        gradient_cost=objective.gradient_cost,
    )  # fmt: skip
    return SearchLoop(strategy, objective, journal, budget=budget, **how).run()
