"""EvalRecord: one measured number, and how it was measured."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

from ropewalk.evaluate.intervals import Difference, paired_difference
from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.evaluate.shares import ShareDifference, paired_share_difference
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.text.splits import Role

ReadingMode = Literal["truncate", "sliding"]
FactorsAtLength = Callable[[int], RescaleFactors | None]
OnRecord = Callable[["EvalRecord"], None]

ALWAYS_WRITTEN = frozenset({"low", "high"})
OLD_METRICS = {"nll_rise": "nll_increase"}  # as earlier versions wrote them


@dataclass(frozen=True, kw_only=True)
class QuestionResult:
    """Whether one passkey was found, or one question answered.

    Attributes:
        depth: of the fact; 0 is the start of the text.
        document: the index of the text's document; None for a generated prompt.
    """

    depth: float
    is_found: bool
    document: int | None = None


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """A perplexity, a share of passkeys or of questions about facts, or an NLL increase, at one length.

    Attributes:
        metric: `perplexity`, `passkey` or `retrieval` (shares from 0 to 1), or `nll_increase` (on short
            inputs, nats per token).
        length: tokens of a document, or of a prompt with its answer.
        factors: a label: the scheme's text, or the file's name.
        n: the number of documents, of passkeys, or of questions.
        low, high: the 95% interval, see `intervals`; None if n is too small for one.
        seed: of the passkeys or facts; None for other metrics.
        seconds: wall time.
        model, where: the model's name; its device, dtype, attention implementation and revision.
        mode, stride, window: how documents were read; `stride` and `window` in tokens, for `sliding`.
        nll_sum_nats, num_tokens: the perplexity is exp(nll_sum_nats / num_tokens).
        nll_by_position: the mean NLL of tokens at positions `start` <= p < `stop`, nats per token.
        source, data_sha256: the text, and the SHA-256 of its token ids.
        documents: which documents of a search these are: `search`, `stop` (validation) or `report` (test).
        found, by_depth: passkeys or facts found in total, and by depth (0 is the start of the text).
        by_question: of `passkey` and `retrieval`, each result, in an order that is the same for all factors.
        retrieval: of `retrieval`, the settings of its questions.
        by_document: nats and tokens of each document, in the order of the text.
        last_half_by_document: of a perplexity, the same of the tokens in each document's last half.
        base_by_document: of `nll_increase`, the same under the base model.
        note: a restriction of the value, e.g. that the length is above the factors' target length.
        run_id, strategy, search_seed, budget: of the search that found the factors.
    """

    metric: Literal["perplexity", "passkey", "retrieval", "nll_increase"]
    value: float
    length: int
    factors: str
    n: int
    low: float | None
    high: float | None
    seed: int | None = None
    seconds: float
    model: str
    where: dict[str, Any] = field(default_factory=dict)
    mode: ReadingMode | None = None
    stride: int | None = None
    window: int | None = None
    nll_sum_nats: float | None = None
    num_tokens: int | None = None
    nll_by_position: tuple[dict[str, int | float], ...] | None = None
    source: str | None = None
    data_sha256: str | None = None
    documents: Role | None = None
    found: int | None = None
    by_depth: tuple[dict[str, int | float], ...] | None = None
    by_question: tuple[QuestionResult, ...] | None = None
    retrieval: RetrievalSettings | None = None
    by_document: tuple[NllSum, ...] | None = None
    last_half_by_document: tuple[NllSum, ...] | None = None
    base_by_document: tuple[NllSum, ...] | None = None
    note: str | None = None
    run_id: str | None = None
    strategy: str | None = None
    search_seed: int | None = None
    budget: int | str | None = None

    def difference(self, other: "EvalRecord") -> Difference | None:
        """Returns the difference of the perplexities, ours - theirs, paired by document.

        Returns:
            None if the two are not perplexities of the same documents at the same length. The difference has
            no interval if a record has no `by_document`, as those of early versions.
        """
        alike = (self.data_sha256, self.length, self.n) == (other.data_sha256, other.length, other.n)
        if not alike or self.metric != "perplexity" or other.metric != "perplexity":
            return None
        if self.by_document is None or other.by_document is None:
            nats = math.log(self.value / other.value)
            return Difference(nats=nats, low=None, high=None, n=self.n)
        return paired_difference(self.by_document, other.by_document)

    def share_difference(self, other: "EvalRecord") -> ShareDifference | None:
        """Returns the difference of the shares found, ours - theirs, paired by question.

        Returns:
            None if the two are not answers to the same questions, or a record has no `by_question`, as those
            of early versions.
        """
        ours, theirs = self.by_question, other.by_question
        if ours is None or theirs is None or self._questions() != other._questions():
            return None
        return paired_share_difference(
            [result.is_found for result in ours],
            [result.is_found for result in theirs],
            documents=[
                number if result.document is None else result.document for number, result in enumerate(ours)
            ],
        )

    def _questions(self) -> tuple[object, ...]:
        """What decides which questions were asked."""
        return self.metric, self.length, self.n, self.seed, self.data_sha256, self.retrieval

    def as_json(self) -> dict[str, Any]:
        """Returns JSON values, without fields that do not apply to the metric; an unknown bound is null."""
        values = dataclasses.asdict(self)
        if self.retrieval is not None:
            values["retrieval"] = self.retrieval.model_dump()
        if values["high"] == math.inf:
            values["high"] = None  # of a perplexity, above the largest float
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None or name in ALWAYS_WRITTEN
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EvalRecord":
        """Returns the record that `as_json` of this version or an earlier one was called on.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        metric = values.get("metric") if isinstance(values, dict) else None
        if isinstance(metric, str):
            values = {**values, "metric": OLD_METRICS.get(metric, metric)}
        record: EvalRecord = checked_json(cls, values)
        return record


@cache
def _adapter(record_class: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(record_class)


def checked_json(record_class: Any, values: Any) -> Any:
    """Returns a record of this class from JSON values; raises ValueError if they do not fit."""
    # Strict JSON: a list may become a tuple, but "5" must not become a number.
    return _adapter(record_class).validate_json(json.dumps(values), strict=True, extra="forbid")


def found_by(factors: RescaleFactors | None) -> dict[str, Any]:
    """Returns the fields of a record that name the search which found these factors; {} for others."""
    made = None if factors is None else factors.provenance
    if made is None or not isinstance(made.settings.get("run_id"), str):
        return {}
    return {
        "run_id": made.settings["run_id"],
        "strategy": made.strategy,
        "search_seed": made.seed,
        "budget": made.settings.get("budget"),
    }
