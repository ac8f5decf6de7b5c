"""Perplexity at several lengths, for any number of factors on the same documents."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import EvaluationError, SettingError
from ropewalk.evaluate.intervals import perplexity_interval
from ropewalk.evaluate.length_notes import length_note
from ropewalk.evaluate.nll import NllSum, window_nlls
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord, ReadingMode, found_by
from ropewalk.models.model import Model
from ropewalk.text.tokens import DocumentSet, TokenDocument
from ropewalk.text.windows import TokenWindow, sliding, truncate

NUM_POSITION_BUCKETS = 16


def measure_perplexity(
    loaded: Model,
    documents: DocumentSet,
    lengths: Sequence[int],
    *,
    factors: Mapping[str, FactorsAtLength],
    mode: ReadingMode = "truncate",
    stride: int | None = None,
    window: int | None = None,
    read_chunk: int | None = None,
    on_record: OnRecord | None = None,
) -> list[EvalRecord]:
    """Measures the perplexity of a model for each label of `factors` and each length.

    All factors and lengths read the same documents. `truncate` reads the first `length` tokens of a document
    in one pass. `sliding` reads them in windows of `window` tokens that move by `stride`: with the model's
    own window and no factors that is the alternative to extending the model. `text.windows` has drawings.

    Example:
        documents = token_documents("books/*.txt", model.tokenizer, length=32768, num_documents=10)
        yarn = scheme_factors("yarn", model.geometry, 32768)
        records = measure_perplexity(model, documents, [4096, 32768], factors={"yarn": lambda length: yarn})
        records[-1].value, records[-1].low, records[-1].high

    Args:
        documents: at least as long as the longest length.
        lengths: tokens.
        factors: label to a function from the tokens that the model reads at once (`length`, or `window` if
            that is smaller) to factors, or to None for the model as configured.
        stride: tokens; required by `sliding`, not allowed with `truncate`.
        window: tokens, by default the model's original length; only for `sliding`.
        read_chunk: see `window_nlls`.
        on_record: called with each record as soon as it is complete.

    Returns:
        One record with the metric `perplexity` per label and length, with its 95% interval (`intervals`).

    Raises:
        SettingError: a length is above the documents' length, or mode, stride and window do not fit together.
        EvaluationError: the model gives NaN or infinity.
    """
    window = _reading(mode, stride, window, loaded.geometry.original_length)
    require_lengths(lengths, documents)
    records = []
    for label, factors_at in factors.items():
        for length in lengths:
            started = time.perf_counter()
            num_read = min(length, window or length)
            installed = factors_at(num_read)
            with loaded.using(installed):
                nll = [
                    _document_nll(loaded.model, _windows(document, length, window, stride), read_chunk)
                    for document in documents.documents
                ]
            record = EvalRecord(
                **_summary(nll, label, length),
                length=length,
                factors=label,
                seconds=time.perf_counter() - started,
                model=loaded.name,
                where=loaded.where,
                mode=mode,
                stride=stride,
                window=window,
                source=documents.source,
                data_sha256=documents.data_sha256,
                note=length_note(loaded, installed, num_read),
                **found_by(installed),
            )
            records.append(record)
            if on_record:
                on_record(record)
    return records


def nll_by_position(nll: Sequence[Tensor], num_buckets: int = NUM_POSITION_BUCKETS) -> list[dict[str, float]]:
    """Returns the mean NLL by position, over all documents.

    Args:
        nll: for each document the NLL of its tokens 1, 2, ... in nats, shape (length - 1,).
        num_buckets: the number of ranges of nearly equal size; at most one per token.

    Returns:
        For each range `start` <= position < `stop` its `mean_nats`.
    """
    mean = torch.stack(list(nll)).mean(dim=0, dtype=torch.float64)
    buckets, start = [], 1
    for part in mean.tensor_split(min(num_buckets, len(mean))):
        buckets.append({"start": start, "stop": start + len(part), "mean_nats": float(part.mean())})
        start += len(part)
    return buckets


def _reading(mode: ReadingMode, stride: int | None, window: int | None, original_length: int) -> int | None:
    """The size of the sliding window, or None for `truncate`. Checks mode, stride and window."""
    if mode == "sliding":
        if stride is None:
            raise SettingError("The mode `sliding` has no stride, but needs one in tokens: give --stride.")
        return window or original_length
    if mode != "truncate":
        raise SettingError(f"The mode is {mode!r}, but must be truncate or sliding.")
    if stride is not None or window is not None:
        raise SettingError(
            "A stride or window was given, but the mode `truncate` has none: leave them out, or use "
            "--mode sliding."
        )
    return None


def require_lengths(lengths: Sequence[int], documents: DocumentSet) -> None:
    """Raises SettingError if there is no length, or one that the documents do not have."""
    if not lengths:
        raise SettingError("No length was given: give at least one, in tokens.")
    for length in lengths:
        if not 2 <= length <= documents.length:
            raise SettingError(
                f"A length is {length} tokens, but must be from 2 to {documents.length}, the tokens of the "
                f"documents."
            )


def _windows(
    document: TokenDocument, length: int, window: int | None, stride: int | None
) -> list[TokenWindow]:
    if window is None or stride is None:
        return truncate(document, length)
    return sliding(document, length, window, stride)


def _document_nll(model: Any, windows: list[TokenWindow], read_chunk: int | None) -> Tensor:
    """The NLL of every token of a document but the first, shape (length - 1,)."""
    return torch.cat(list(window_nlls(model, windows, read_chunk=read_chunk)))


def _summary(nll: list[Tensor], label: str, length: int) -> dict[str, Any]:
    """The numbers of a record, from the NLL of each document's tokens."""
    sums = tuple(NllSum.of(values) for values in nll)
    total = reduce(add, sums)
    if not math.isfinite(total.perplexity):
        raise EvaluationError(
            f"With {label} the model gives NaN or infinity at {length} tokens: try --dtype float32, or check "
            f"the factors."
        )
    low, high = perplexity_interval(sums)
    return {
        "metric": "perplexity",
        "value": total.perplexity,
        "n": len(sums),
        "low": low,
        "high": high,
        "nll_sum_nats": total.nll_sum_nats,
        "num_tokens": total.num_tokens,
        "nll_by_position": tuple(nll_by_position(nll)),
        "by_document": sums,
        "last_half_by_document": tuple(NllSum.of(values[len(values) // 2 :]) for values in nll),
    }
