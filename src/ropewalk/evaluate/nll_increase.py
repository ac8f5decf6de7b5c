"""What short inputs lost: the extended model against the base model, document by document."""

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
    """Each document's NLL over its first `length` tokens; without factors, of the model as it stands."""
    with loaded.using(factors):
        return [score_windows(loaded.model, truncate(d, length)) for d in documents.documents]


def rise_record(
    before: Sequence[NllSum],
    after: Sequence[NllSum],
    *,
    loaded: Model,
    documents: DocumentSet,
    length: int,
    label: str,
    started: float,
) -> EvalRecord:
    """Mean nats per token `after` less those `before`, with an interval paired by document.

    Args:
        started: `time.perf_counter()` when the measurement began.

    Raises:
        EvaluationError: NaN or infinity.
    """
    rise = paired_difference(after, before)
    if not math.isfinite(rise.nats):
        raise EvaluationError(
            f"With {label} the model gives NaN or infinity at {length} tokens: look at the factors, or at "
            f"what the training did."
        )
    return EvalRecord(
        metric="nll_rise", value=rise.nats, length=length, factors=label, n=rise.n, low=rise.low,
        high=rise.high, seconds=time.perf_counter() - started, model=loaded.name, where=loaded.where,
        num_tokens=sum(entry.num_tokens for entry in before), source=documents.source,
        data_sha256=documents.data_sha256, mode="truncate", by_document=tuple(after),
        base_by_document=tuple(before),
    )  # fmt: skip
