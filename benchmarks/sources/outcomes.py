"""Outcomes of the runs of `many_sources.py`: the returned factors compared with closed forms."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import scipy

from ropewalk.evaluate.intervals import CONFIDENCE, Difference, paired_difference
from ropewalk.evaluate.shares import ShareDifference, paired_share_difference
from sources.runs import RETURNED, Nats, Run, near_closed_forms, perplexity, selected_runs, sums_of

Result = Literal["loses", "wins", "undecided"]


def widened(difference: Difference, num_compared: int) -> Difference:
    """The same difference with Bonferroni's interval: all of `num_compared` cover together in 95%."""
    if difference.low is None or difference.high is None:
        return difference
    alpha, freedom = 1 - CONFIDENCE, difference.n - 1
    quantile = scipy.stats.t.ppf
    times = float(quantile(1 - alpha / (2 * num_compared), freedom) / quantile(1 - alpha / 2, freedom))
    half = (difference.high - difference.low) / 2 * times
    return replace(difference, low=difference.nats - half, high=difference.nats + half)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run measured, compared.

    Attributes:
        search: what the search returned, and its cost.
        nats: by `returned` and closed form, per unseen document.
        found: by `returned` and near closed form, per unseen document a digit per question.
    """

    run: Run
    search: dict[str, Any]
    nats: dict[str, Nats]
    found: dict[str, list[str]]

    @cached_property
    def near(self) -> dict[str, float]:
        """The perplexity of each near closed form, the best first."""
        return near_closed_forms(self.nats)

    @property
    def best(self) -> str:
        """The closed form of the lowest perplexity."""
        return next(iter(self.near))

    @property
    def perplexity(self) -> float:
        """Of the returned factors."""
        return perplexity(self.nats[RETURNED])

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Returned factors - each near closed form, 95% each."""
        ours = sums_of(self.nats[RETURNED])
        return {name: paired_difference(ours, sums_of(self.nats[name])) for name in self.near}

    def result(self, *, corrected: bool) -> Result:
        """Loses to any near closed form, or wins against all.

        Args:
            corrected: whether a loss needs the interval that is corrected for the number of comparisons. A
                win against all of them needs no correction.
        """
        count = len(self.near) if corrected else 1
        if any(widened(one, count).is_lower is False for one in self.differences.values()):
            return "loses"
        return "wins" if all(one.is_lower for one in self.differences.values()) else "undecided"

    @property
    def best_by_facts(self) -> str:
        """The near closed form that finds most; of equals the one with the lowest perplexity."""
        return max(self.near, key=self.num_found)

    def num_found(self, name: str) -> int:
        return "".join(self.found[name]).count("1")

    def found_against(self, name: str) -> ShareDifference:
        """Returned factors - a closed form, paired by question."""
        ours, theirs = ([digit == "1" for digit in "".join(self.found[one])] for one in (RETURNED, name))
        documents = [number for number, digits in enumerate(self.found[name]) for _ in digits]
        return paired_share_difference(ours, theirs, documents=documents)

    def facts_result(self, name: str) -> Result:
        """Against one closed form, 95%."""
        is_higher = self.found_against(name).is_higher
        return "undecided" if is_higher is None else "wins" if is_higher else "loses"

    def as_json(self) -> dict[str, Any]:
        return {
            "result": self.result(corrected=True),
            "not_corrected": self.result(corrected=False),
            "perplexity": self.perplexity,
            "near": self.near,
            "differences": {name: one.as_json() for name, one in self.differences.items()},
            "found": {name: self.num_found(name) for name in self.found},
        }


def outcomes_of(measured: Mapping[str, Any]) -> list[Outcome]:
    """The runs that are measured in full; an interrupted one lacks its last closed form's facts."""
    found = []
    for run in selected_runs():
        of_run = {
            name.removeprefix(f"{run.label} / "): value
            for name, value in measured.items()
            if name.startswith(f"{run.label} / ")
        }
        nats, facts = _by_factors(of_run, "nats "), _by_factors(of_run, "found ")
        if RETURNED in nats and {RETURNED, *near_closed_forms(nats)} <= set(facts):
            found.append(Outcome(run=run, search=of_run["search"], nats=nats, found=facts))
    return found


def _by_factors(of_run: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name.removeprefix(kind): value for name, value in of_run.items() if name.startswith(kind)}
