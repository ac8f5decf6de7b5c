"""Judges candidates from kept keys, and reads them exactly, on the same tokens of the same documents.

One exact reading serves two values: of all tokens of a term, and of those that kept keys score.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from measurements import Measurements
from ropewalk.evaluate.kept_keys import keep, score_kept
from ropewalk.evaluate.nll import NllSum, score_reading
from ropewalk.models.model import Model
from ropewalk.search.meter import NOTHING
from ropewalk.search.objective import TermReadings
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.text.readings import Reading, choose_targets

ALL, SAME = "all tokens", "same tokens"
REST = ", other tokens"
BLOCK = 8  # candidates that are saved together

# By what was read (`ALL`, `SAME`, or the name of kept keys), the nats per token of each term.
Row = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class KeptUnder:
    """What keys are kept under, and in which type; None for the model's."""

    candidate: Candidate
    dtype: torch.dtype | None = None


class Judge:
    """Values of candidates on the documents of an objective."""

    def __init__(
        self, model: Model, space: SearchSpace, readings: TermReadings, kept_under: Mapping[str, KeptUnder]
    ) -> None:
        """Reads every document once for each of `kept_under`."""
        self._model, self._space = model, space
        self._terms = [term.name for term in readings.terms]
        documents = range(readings.num_documents)
        full = [one for document in documents for one in readings.readings_of(document, 0)]
        self._few = [choose_targets(one) for one in full]
        self._split = [in_two(one, few) for one, few in zip(full, self._few, strict=True)]
        self._kept = {
            name: [keep(model, one.ids, space.to_factors(under.candidate), dtype=under.dtype) for one in full]
            for name, under in kept_under.items()
        }

    def __call__(self, candidate: Candidate) -> Row:
        """The nats per token of each term, in every way."""
        factors = self._space.to_factors(candidate)
        with self._model.using(factors):
            exact = [score_reading(self._model.model, one) for one in self._split]
        row = {
            ALL: [_mean(exact, (term, term + REST)) for term in self._terms],
            SAME: [_mean(exact, (term,)) for term in self._terms],
        }
        for name, documents in self._kept.items():
            sums = [
                score_kept(self._model, kept, few, factors)
                for kept, few in zip(documents, self._few, strict=True)
            ]
            row[name] = [_mean(sums, (term,)) for term in self._terms]
        return row

    @property
    def share_of_queries(self) -> float:
        """The tokens that run through the model for a candidate, as a share of those that are read."""
        kept = next(iter(self._kept.values()))
        queries = sum(len(one.queries(few)) for one, few in zip(kept, self._few, strict=True))
        return queries / sum(len(few.ids) for few in self._few)


def judge_all(
    measurements: Measurements,
    name: str,
    candidates: Sequence[Candidate],
    make_judge: Callable[[], Judge],
) -> list[Row]:
    """A row per candidate, measured now if not before."""
    judge = cache(make_judge)  # its documents are read only where a candidate is missing
    rows: list[Row] = []
    for start in range(0, len(candidates), BLOCK):
        block = candidates[start : start + BLOCK]

        def measure(block: Sequence[Candidate] = block) -> list[Row]:
            return [judge()(candidate) for candidate in block]

        rows += measurements.measure(f"{name} / candidates from {start}", measure)
        print(f"{name}: {len(rows)} of {len(candidates)} candidates", file=sys.stderr, flush=True)
    return rows


def in_two(full: Reading, few: Reading) -> Reading:
    """The full reading with two terms for one: the targets of `few`, and the rest of them."""
    scored = dict(few.scored)
    for term, positions in full.scored.items():
        rest = positions[~torch.isin(positions, few.scored[term])]
        if len(rest):
            scored[term + REST] = rest
    return Reading(ids=full.ids, scored=scored, fresh=full.fresh)


def log_values(rows: Sequence[Row], how: str, weights: Sequence[float]) -> Any:
    """ln value of each candidate, the weighted sum of its terms' nats per token; shape (num_rows,)."""
    return np.array([row[how] for row in rows]) @ np.array(weights)


def _mean(documents: Sequence[Mapping[str, NllSum]], terms: Sequence[str]) -> float:
    found = NOTHING
    for sums in documents:
        for term in terms:
            found += sums.get(term, NOTHING)
    return found.mean_nats
