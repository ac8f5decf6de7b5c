"""What a candidate costs from kept keys, and in full, on the clock."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from judging.judge import in_two
from ropewalk.evaluate.gradient import ReadingGradient, reading_gradient
from ropewalk.evaluate.kept_keys import keep, kept_gradient, score_kept
from ropewalk.evaluate.nll import score_reading
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.search.objective import TermReadings
from ropewalk.text.readings import choose_targets


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of one document, medians of the rounds in seconds; both ways in turn.

    Attributes:
        share_of_queries: the tokens that run for a candidate, as a share of the document's.
        gradient_cosine: of the gradients by ln lambda of both ways, on the same tokens.
        kept_mib: the memory of the document's kept keys.
    """

    length: int
    share_of_queries: float
    keep: float
    kept: float
    exact: float
    kept_gradient: float
    exact_gradient: float
    gradient_cosine: float
    kept_mib: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def measure_times(
    model: Model, readings: TermReadings, under: RescaleFactors, factors: RescaleFactors, rounds: int
) -> Timing:
    """Keys of the first document are kept under the one, and the other is judged."""
    full = readings.readings_of(0, 0)[0]
    few = choose_targets(full)
    split = in_two(full, few)
    # Of nats of the chosen tokens alone, so that the two gradients can be compared.
    weights = {term: 1.0 / count for term in few.scored if (count := few.num_scored(term))}
    kept = keep(model, full.ids, under)

    def read() -> None:
        with model.using(factors):
            score_reading(model.model, full)

    ways: dict[str, Callable[[], Any]] = {
        "keep": lambda: keep(model, full.ids, under),
        "kept": lambda: score_kept(model, kept, few, factors),
        "exact": read,
        "kept_gradient": lambda: kept_gradient(model, kept, few, factors, weights),
        "exact_gradient": lambda: reading_gradient(
            model, split, factors, {term: weights.get(term, 0.0) for term in split.scored}
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for _ in range(rounds):
        for name, run in ways.items():
            started = time.perf_counter()
            found[name] = run()
            seconds[name].append(time.perf_counter() - started)
    return Timing(
        length=len(full.ids),
        share_of_queries=len(kept.queries(few)) / len(full.ids),
        gradient_cosine=_cosine(found["kept_gradient"], found["exact_gradient"]),
        kept_mib=kept.num_bytes / 2**20,
        **{name: median(of_one) for name, of_one in seconds.items()},
    )


def _cosine(one: ReadingGradient, other: ReadingGradient) -> float:
    first, second = one.by_log_factor, other.by_log_factor
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
