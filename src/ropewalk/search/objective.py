"""A candidate to a number: install it, read the documents, sum the loss. A failure is a value too."""

import gc
import math
from dataclasses import dataclass
from typing import Protocol

import torch

from ropewalk.evaluate.nll import score_windows
from ropewalk.factors import RescaleFactors
from ropewalk.models.load import LoadedModel
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.text.tokens import DocumentSet
from ropewalk.text.windows import truncate

# How torch's backends say it when they raise a plain RuntimeError.
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
    _free_memory()
    return failure


class PerplexityObjective:
    """Token-weighted perplexity over documents, each read once from its start to the target length.

    The model is left as it was after every call.
    """

    cost = 1.0

    def __init__(
        self,
        loaded: LoadedModel,
        documents: DocumentSet,
        space: SearchSpace,
        own: RescaleFactors | None = None,
    ) -> None:
        """`own`: a scaling that the candidates are multiplied onto, for searches `as-is`."""
        self._loaded = loaded
        self._space = space
        self._own = own
        self._windows = [
            window for document in documents.documents for window in truncate(document, space.target_length)
        ]
        shape = f"{len(self._windows)} documents of {space.target_length} tokens"
        self.name = f"perplexity of {shape}, each read in one pass"

    def factors(self, candidate: Candidate) -> RescaleFactors:
        """What is installed for a candidate."""
        factors = self._space.to_factors(candidate)
        return factors if self._own is None else factors.compose(self._own)

    def __call__(self, candidate: Candidate) -> float:
        with self._loaded.installed(self.factors(candidate)):
            return score_windows(self._loaded.model, self._windows).perplexity


def _out_of_memory(error: Exception) -> str | None:
    """The reason in one line if memory ran out, None if this is another error."""
    text = " ".join(str(error).split())
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if not known and not any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return None
    return f"out of memory: {text}"[:LONGEST_REASON] if text else "out of memory"


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
