import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from token_nll import token_nll

from ropewalk.errors import EvaluationError, SettingError
from ropewalk.evaluate.nll import score_windows, window_nlls
from ropewalk.evaluate.perplexity import measure_perplexity, nll_by_position
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import DocumentSet, TokenDocument
from ropewalk.text.windows import sliding, truncate


@pytest.fixture
def loaded(tiny_model_folder: Path) -> Model:
    return load_model(tiny_model_folder)


@pytest.fixture
def documents() -> DocumentSet:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(258, (200,), generator=generator) for _ in range(4)]
    return DocumentSet(
        documents=tuple(TokenDocument(name=str(i), ids=ids) for i, ids in enumerate(texts)),
        num_read=5,
        num_too_short=1,
        data_sha256="0123",
        source="numbers",
    )


def untouched(length: int) -> None:
    return None


def test_a_record_is_what_the_windows_sum_to(loaded: Model, documents: DocumentSet) -> None:
    (record,) = measure_perplexity(loaded, documents, [150], factors={"untouched": untouched})
    total = score_windows(loaded.model, [truncate(d, 150)[0] for d in documents.documents])

    assert record.nll_sum_nats == pytest.approx(total.nll_sum_nats, rel=1e-6)
    assert record.num_tokens == total.num_tokens == 4 * 149
    assert record.value == pytest.approx(total.perplexity)
    assert record.low is not None
    assert record.high is not None
    assert record.low < record.value < record.high
    assert (record.metric, record.mode, record.stride, record.window) == (
        "perplexity",
        "truncate",
        None,
        None,
    )
    assert (record.length, record.factors, record.n) == (150, "untouched", 4)
    each = [score_windows(loaded.model, truncate(d, 150)) for d in documents.documents]
    assert [s.nll_sum_nats for s in record.by_document] == pytest.approx([s.nll_sum_nats for s in each])
    assert [s.num_tokens for s in record.by_document] == [149] * 4
    of_tokens = [torch.cat(list(window_nlls(loaded.model, truncate(d, 150)))) for d in documents.documents]
    late = [float(nll[74:].sum()) for nll in of_tokens]
    assert [s.nll_sum_nats for s in record.last_half_by_document] == pytest.approx(late, rel=1e-5)
    assert [s.num_tokens for s in record.last_half_by_document] == [75] * 4
    assert (record.source, record.data_sha256) == ("numbers", "0123")
    assert record.where["dtype"] == "float32"
    assert record.seconds > 0
    json.dumps(record.as_json(), allow_nan=False)


def test_sliding_reads_the_models_own_window(loaded: Model, documents: DocumentSet) -> None:
    (record,) = measure_perplexity(
        loaded, documents, [200], factors={"untouched": untouched}, mode="sliding", stride=16
    )
    total = score_windows(loaded.model, [w for d in documents.documents for w in sliding(d, 200, 64, 16)])

    assert record.nll_sum_nats == pytest.approx(total.nll_sum_nats, rel=1e-6)
    assert (record.num_tokens, record.mode, record.stride, record.window) == (4 * 199, "sliding", 16, 64)


def test_every_label_is_measured_at_every_length(loaded: Model, documents: DocumentSet) -> None:
    asked: list[tuple[str, int]] = []
    seen: list[EvalRecord] = []

    def scheme(name: str) -> Any:
        def at(length: int) -> RescaleFactors:
            asked.append((name, length))
            return scheme_factors(name, loaded.geometry, length)

        return at

    labels = {name: scheme(name) for name in ("pi", "ntk")}
    records = measure_perplexity(loaded, documents, [100, 200], factors=labels, on_record=seen.append)

    assert asked == [("pi", 100), ("pi", 200), ("ntk", 100), ("ntk", 200)]
    assert [(r.factors, r.length) for r in records] == asked
    assert seen == records
    assert len({r.value for r in records}) == 4
    with loaded.using(scheme_factors("ntk", loaded.geometry, 200)):
        expected = score_windows(loaded.model, [truncate(d, 200)[0] for d in documents.documents])
    assert records[-1].value == pytest.approx(expected.perplexity, rel=1e-6)


def test_a_sliding_window_uses_factors_for_its_length(loaded: Model, documents: DocumentSet) -> None:
    asked: list[int] = []
    measure_perplexity(
        loaded, documents, [50, 200], factors={"x": asked.append}, mode="sliding", stride=8, window=128
    )

    assert asked == [50, 128]


def test_the_model_is_left_unchanged(loaded: Model, documents: DocumentSet) -> None:
    window = truncate(documents.documents[0], 200)[0]
    before = token_nll(loaded.model, window)
    measure_perplexity(
        loaded, documents, [200], factors={"pi": lambda n: scheme_factors("pi", loaded.geometry, n)}
    )

    assert torch.equal(token_nll(loaded.model, window), before)


def test_a_long_document_can_be_read_in_chunks(loaded: Model, documents: DocumentSet) -> None:
    whole, chunked = (
        measure_perplexity(loaded, documents, [200], factors={"u": untouched}, read_chunk=chunk)[0]
        for chunk in (None, 30)
    )

    assert whole.nll_sum_nats is not None
    assert chunked.nll_sum_nats == pytest.approx(whole.nll_sum_nats, rel=1e-6)


def test_two_documents_have_no_interval(loaded: Model, documents: DocumentSet) -> None:
    few = replace(documents, documents=documents.documents[:2])
    (record,) = measure_perplexity(loaded, few, [100], factors={"u": untouched})

    assert (record.n, record.low, record.high) == (2, None, None)


def test_nan_is_an_error_that_names_the_factors(loaded: Model, documents: DocumentSet) -> None:
    torch.nn.init.constant_(loaded.model.model.norm.weight, math.nan)
    with pytest.raises(EvaluationError, match="pi"):
        measure_perplexity(loaded, documents, [100], factors={"pi": untouched})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "sliding"}, "stride"),
        ({"mode": "sliding", "stride": 64}, "stride"),
        ({"mode": "sliding", "stride": 0}, "stride"),
        ({"stride": 8}, "stride"),
        ({"window": 8}, "window"),
        ({"mode": "other"}, "other"),
        ({"lengths": [201]}, "201"),
        ({"lengths": [1]}, "1 token"),
        ({"lengths": []}, "length"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    loaded: Model, documents: DocumentSet, options: dict[str, Any], expected: str
) -> None:
    options = {"lengths": [100], **options}
    with pytest.raises(SettingError, match=expected):
        measure_perplexity(loaded, documents, factors={"u": untouched}, **options)


def test_buckets_cover_every_position_once() -> None:
    nll = [torch.arange(1.0, 200.0), torch.arange(1.0, 200.0) + 1]
    buckets = nll_by_position(nll, num_buckets=16)

    assert len(buckets) == 16
    assert [b["start"] for b in buckets] == [1, *(b["stop"] for b in buckets[:-1])]
    assert buckets[-1]["stop"] == 200
    for bucket in buckets:
        middle = (bucket["start"] + bucket["stop"] - 1) / 2
        assert bucket["mean_nats"] == pytest.approx(middle + 0.5)


def test_few_tokens_make_few_buckets() -> None:
    assert nll_by_position([torch.tensor([2.0, 4.0])]) == [
        {"start": 1, "stop": 2, "mean_nats": 2.0},
        {"start": 2, "stop": 3, "mean_nats": 4.0},
    ]
