"""Values of candidates by a function, in the place of `Objective.measure` of a real search."""

from ropewalk.evaluate.nll import NllSum
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.meter import DocumentMeasure


def measured_by(nats_of):
    """Measures every document as `nats_of(objective, candidate)` nats of each term."""

    def measure(objective, candidate, documents, draw=0, *, gradient=False, kept=None, keep=False, ahead=()):
        assert not gradient
        nats = nats_of(objective, candidate)
        readings = objective.readings if kept is None else objective.readings.judged()
        for document in documents:
            num_scored = readings.num_scored([document], draw)
            yield DocumentMeasure(
                sums={term: NllSum(nll_sum_nats=nats, num_tokens=count) for term, count in num_scored.items()}
            )

    return measure


def away_from_yarn(objective, candidate):
    """The nearer to YaRN's lambdas, the better."""
    yarn = scheme_factors("yarn", objective.space.geometry, objective.space.target_length)
    away = sum(abs(a - b) for a, b in zip(candidate.rescale_factors, yarn.rescale_factors[0], strict=True))
    return 100 * (1 + away)
