"""The NLL increase on short inputs: the extended model minus the base model, paired by document."""

import math
import time
from collections.abc import Sequence

from ropewalk.errors import EvaluationError
from ropewalk.evaluate.intervals import paired_difference
from ropewalk.evaluate.nll import NllSum, score_windows
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.text.tokens import DocumentSet
from ropewalk.text.windows import truncate


def document_sums(
    loaded: Model, documents: DocumentSet, length: int, factors: RescaleFactors | None
) -> list[NllSum]:
    """Returns the NLL of each document's first `length` tokens; without factors, those of the base model."""
    with loaded.using(factors):
        return [score_windows(loaded.model, truncate(d, length)) for d in documents.documents]


def increase_record(
    before: Sequence[NllSum],
    after: Sequence[NllSum],
    *,
    loaded: Model,
    documents: DocumentSet,
    length: int,
    label: str,
    started: float,
) -> EvalRecord:
    """Returns the record of the increase in nats per token from `before` to `after`, with its interval.

    Args:
        before, after: the NLL of each document under the base model and the extended model.
        label: the name of the factors.
        started: `time.perf_counter()` at the beginning of the measurement.

    Raises:
        EvaluationError: the increase is NaN or infinite.
    """
    increase = paired_difference(after, before)
    if not math.isfinite(increase.nats):
        raise EvaluationError(
            f"With {label} the model gives NaN or infinity at {length} tokens: check the factors and the "
            f"training."
        )
    return EvalRecord(
        metric="nll_increase", value=increase.nats, length=length, factors=label, n=increase.n,
        low=increase.low, high=increase.high, seconds=time.perf_counter() - started,
        model=loaded.name, where=loaded.where,
        num_tokens=sum(entry.num_tokens for entry in before), source=documents.source,
        data_sha256=documents.data_sha256, mode="truncate", by_document=tuple(after),
        base_by_document=tuple(before),
    )  # fmt: skip
