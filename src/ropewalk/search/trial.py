"""Trial: what is known of a candidate once it was tried."""

import math
from dataclasses import dataclass
from typing import Any

from ropewalk.search.space import Candidate


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate with its value, or with the reason why it has none.

    Attributes:
        index: 0, 1, 2 ... in the order of evaluation.
        value: what is minimised; None if the trial failed.
        failure: one line; None if it succeeded.
        seconds: what the evaluation took.
        cost: in forward passes over the whole document set.
        is_check: tried by the loop (the best lambdas with n-hat 0), not asked for by the strategy.
    """

    index: int
    candidate: Candidate
    value: float | None
    failure: str | None
    seconds: float
    cost: float
    is_check: bool = False

    def __post_init__(self) -> None:
        assert (self.value is None) != (self.failure is None), "a trial has a value or a failure"
        assert self.value is None or math.isfinite(self.value), self.value

    @property
    def rank(self) -> tuple[float, int]:
        """Smaller is better; a failure comes last, and of equal values the earlier trial wins."""
        return (math.inf if self.value is None else self.value, self.index)

    def as_dict(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "kind": "check" if self.is_check else "trial",
            "candidate": self.candidate.as_dict(),
            "value": self.value,
            "failure": self.failure,
            "seconds": self.seconds,
            "cost": self.cost,
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Trial":
        return cls(
            index=given["index"],
            candidate=Candidate.from_dict(given["candidate"]),
            value=given["value"],
            failure=given["failure"],
            seconds=given["seconds"],
            cost=given["cost"],
            is_check=given["kind"] == "check",
        )
