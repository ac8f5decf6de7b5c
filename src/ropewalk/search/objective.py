"""A candidate to a number, whatever is measured. A failure is a value too."""

import gc
import math
from dataclasses import dataclass
from typing import Protocol

from ropewalk.search.space import Candidate

# How torch's backends say it; some of them raise a plain RuntimeError.
OUT_OF_MEMORY = ("out of memory", "can't allocate", "not enough memory", "alloc_failed")
LONGEST_REASON = 200


class Objective(Protocol):
    """What a search minimises.

    Attributes:
        cost: what one call costs, in forward passes over the whole document set.
    """

    cost: float

    def __call__(self, candidate: Candidate) -> float:
        """The value of a candidate; NaN or infinity where it has none."""


@dataclass(frozen=True)
class TrialFailure:
    """Why a candidate has no value, in one line."""

    reason: str


def attempt(objective: Objective, candidate: Candidate) -> float | TrialFailure:
    """The objective's value, or why there is none: not a finite number, or out of memory.

    Any other error is a defect, or the user's Ctrl-C, and passes through.
    """
    try:
        value = objective(candidate)
    except (RuntimeError, MemoryError) as error:
        reason = _out_of_memory(error)
        if reason is None:
            raise
        failure = TrialFailure(reason)
    else:
        return value if math.isfinite(value) else TrialFailure(f"the value is {value}")
    gc.collect()  # what the failed evaluation held must be free for the next one
    return failure


def _out_of_memory(error: Exception) -> str | None:
    """The reason in one line if memory ran out, None if this is another error."""
    text = " ".join(str(error).split())
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not known and not any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return None
    return f"out of memory: {text}"[:LONGEST_REASON] if text else "out of memory"
