"""Query and Trial: a candidate that a strategy requests, and its result."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ropewalk.factors.rescale_factors import FACTORS
from ropewalk.search.renewal import Renewal
from ropewalk.search.space import Candidate
from ropewalk.units import ATTENTION_FACTORS, LONGEST

# `trial` is requested by the strategy, the others by the loop: `check`, the best factors with n-hat 0;
# `stop`, the best candidate on the validation documents; `free`, an unconstrained candidate; `screen` and
# `finalist`, a closed form on the validation documents, or on the search documents if there are none, judged
# from kept keys and read in full. Journals contain these words.
TrialKind = Literal["trial", "check", "stop", "free", "screen", "finalist"]
# The kinds that may become the best candidate.
OF_THE_SEARCH: tuple[TrialKind, ...] = ("trial", "check")
# Nats of each document that was read, by the term of the objective.
Parts = dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A candidate to evaluate.

    Attributes:
        documents: indices of the documents to read; None for all, which the best candidate needs.
        gradient: whether to compute the gradient with the value.
        draw: the number of the draw of what an objective draws (facts); values of draw 0 can be compared.
        keep: keep the keys of its documents, which are read in full; without a gradient.
    """

    candidate: Candidate
    documents: tuple[int, ...] | None = None
    gradient: bool = False
    draw: int = 0
    keep: bool = False


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A candidate with its value, or with the reason why it has none.

    Attributes:
        index: 0, 1, 2 ... in the order of evaluation.
        value: what is minimised; None if the trial failed.
        failure: one line; None if it succeeded.
        seconds: what the evaluation took.
        cost: in forward passes over the whole document set.
        documents: indices of those that were read; None for all of them.
        parts: nats of each document that was read, in their order, by the objective's terms.
        gradient: of ln value, in the space's coordinates; None if it was not requested.
        renewal: of the keys that its documents were judged from; None if they stayed, or were not used.
    """

    index: int
    candidate: Candidate
    value: float | None
    failure: str | None
    seconds: float
    cost: float
    kind: TrialKind = "trial"
    documents: tuple[int, ...] | None = None
    parts: Parts = field(default_factory=dict)
    gradient: tuple[float, ...] | None = None
    renewal: Renewal | None = None

    def __post_init__(self) -> None:
        assert (self.value is None) != (self.failure is None), "a trial has a value or a failure"
        assert self.value is None or math.isfinite(self.value), self.value

    @property
    def total_cost(self) -> float:
        """With that of renewed keys."""
        return self.cost + (0.0 if self.renewal is None else self.renewal.cost)

    @property
    def rank(self) -> tuple[float, int]:
        """Smaller is better; a failure comes last, and of equal values the earlier trial wins."""
        return (math.inf if self.value is None else self.value, self.index)

    @property
    def is_complete(self) -> bool:
        """Whether its value is that of all search documents, which alone can be compared with another's."""
        return (
            self.value is not None
            and self.documents is None
            and self.kind not in ("stop", "screen", "finalist")
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON values; what does not apply is left out."""
        optional = {
            "documents": self.documents and list(self.documents),
            "parts": {name: list(nats) for name, nats in self.parts.items()} or None,
            "gradient": self.gradient and list(self.gradient),
            "renewal": self.renewal and self.renewal.as_dict(),
        }
        return {
            "index": self.index,
            "kind": self.kind,
            "candidate": self.candidate.as_dict(),
            "value": self.value,
            "failure": self.failure,
            "seconds": self.seconds,
            "cost": self.cost,
            **{name: value for name, value in optional.items() if value is not None},
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Trial":
        """The trial that `as_dict` was called on.

        Raises:
            ValueError: a value is missing, unknown, of a wrong type or out of its range.
        """
        line = _TrialLine.model_validate(given)
        if (line.value is None) == (line.failure is None):
            raise ValueError("a trial has a value or a failure")
        return cls(
            index=line.index,
            candidate=Candidate.from_dict(given["candidate"]),
            value=line.value,
            failure=line.failure,
            seconds=line.seconds,
            cost=line.cost,
            kind=line.kind,
            documents=None if line.documents is None else tuple(line.documents),
            parts={name: tuple(nats) for name, nats in line.parts.items()},
            gradient=None if line.gradient is None else tuple(line.gradient),
            renewal=None if line.renewal is None else line.renewal.renewal(),
        )


# ---------------------------------------------------------------- the lines of a journal

Factor = Annotated[float, Field(ge=FACTORS[0], le=FACTORS[1])]
Index = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]  # its logarithm is what strategies see


class _Strict(BaseModel):
    """Every field is required, no other is allowed, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _CandidateLine(_Strict):
    rescale_factors: list[Factor] = Field(min_length=1)
    num_start_tokens: int = Field(ge=0, le=LONGEST)
    attention_factor: float = Field(ge=ATTENTION_FACTORS[0], le=ATTENTION_FACTORS[1])
    near_window: int = Field(default=0, ge=0, le=LONGEST)
    near_attention_factor: float = Field(default=1.0, ge=ATTENTION_FACTORS[0], le=ATTENTION_FACTORS[1])


class _RenewalLine(_Strict):
    documents: list[Index] = Field(min_length=1)
    cost: float = Field(ge=0)
    error: float | None = Field(ge=0)

    def renewal(self) -> Renewal:
        return Renewal(documents=tuple(self.documents), cost=self.cost, error=self.error)


class _TrialLine(_Strict):
    index: Index
    kind: TrialKind
    candidate: _CandidateLine
    value: Positive | None
    failure: str | None
    seconds: float = Field(ge=0)
    cost: float = Field(ge=0)
    documents: list[Index] | None = Field(default=None, min_length=1)
    parts: dict[str, list[float]] = Field(default_factory=dict)
    gradient: list[float] | None = Field(default=None, min_length=1)
    renewal: _RenewalLine | None = None
