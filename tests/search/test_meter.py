"""A meter measures a document exactly, or from keys that it keeps once per document."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from ropewalk.evaluate.gradient import reading_gradient
from ropewalk.evaluate.nll import score_reading
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search import meter as meter_module
from ropewalk.search.meter import DocumentMeter, DocumentTask, Kept
from ropewalk.text.readings import Reading, choose_targets

LENGTH, NUM_DOCUMENTS = 120, 3
TERMS = ("text", "answers")
WEIGHTS = {"text": 0.5, "answers": 2.0}


def reading(document: int, draw: int) -> Reading:
    """A random text, whose last tokens are answers."""
    generator = torch.Generator().manual_seed(10 * draw + document)
    return Reading(
        ids=torch.randint(2, 200, (LENGTH,), generator=generator),
        scored={"text": torch.arange(1, 110), "answers": torch.arange(112, 117)},
    )


def readings_of(document: int, draw: int) -> tuple[Reading, ...]:
    return (reading(document, draw),)


@pytest.fixture
def model(tiny_model: LlamaForCausalLM) -> Model:
    return Model.wrap(tiny_model)


def factors_for(model: Model, scheme: str = "yarn", **changes: Any) -> RescaleFactors:
    return scheme_factors(scheme, model.geometry, 256).replace(**changes)


@pytest.fixture
def num_kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first token of each text whose keys are kept."""
    kept: list[int] = []

    def watched(model: Model, ids: torch.Tensor, factors: RescaleFactors, **options: Any) -> Any:
        kept.append(int(ids[0]))
        return original(model, ids, factors, **options)

    original = meter_module.keep
    monkeypatch.setattr(meter_module, "keep", watched)
    return kept


def test_an_exact_task_that_keeps_keys_spares_the_reading_of_later_ones(
    model: Model, num_kept: list[int]
) -> None:
    yarn, other = factors_for(model), factors_for(model, "ntk")
    fresh, spared = (DocumentMeter(model, TERMS, readings_of) for _ in range(2))
    later = DocumentTask(factors=other, document=1, kept=Kept(factors=yarn))
    expected = fresh.measure(later)
    assert len(num_kept) == 1

    exact = spared.measure(DocumentTask(factors=yarn, document=1, keep=True))
    assert exact.num_tokens == LENGTH
    in_full = fresh.measure(DocumentTask(factors=yarn, document=1)).sums
    for term in TERMS:
        assert exact.sums[term].nll_sum_nats == pytest.approx(in_full[term].nll_sum_nats, rel=1e-5)
    assert spared.measure(later).sums == expected.sums
    assert len(num_kept) == 1, "its keys were kept by the exact task"
    assert spared.num_kept_bytes == fresh.num_kept_bytes > 0


def test_an_exact_task_reads_all_tokens(model: Model) -> None:
    factors = factors_for(model)
    meter = DocumentMeter(model, TERMS, readings_of)
    measured = meter.measure(DocumentTask(factors=factors, document=1, draw=2))
    with model.using(factors):
        assert measured.sums == score_reading(model.model, reading(1, 2))
    assert measured.num_tokens == LENGTH
    assert meter.num_kept_bytes == 0


@pytest.mark.parametrize("has_gradient", [False, True])
def test_a_kept_task_scores_fewer_tokens_and_is_exact_under_its_own_factors(
    model: Model, has_gradient: bool
) -> None:
    factors = factors_for(model, num_start_tokens=3)
    meter = DocumentMeter(model, TERMS, readings_of)
    weights = WEIGHTS if has_gradient else None
    task = DocumentTask(
        factors=factors, document=1, draw=2, weights=weights, kept=Kept(factors=factors, draw=2)
    )
    measured, chosen = meter.measure(task), choose_targets(reading(1, 2), draw=2)
    with model.using(factors):
        expected = score_reading(model.model, chosen)

    for term in TERMS:
        assert measured.sums[term].num_tokens == len(chosen.scored[term])
        assert measured.sums[term].mean_nats == pytest.approx(expected[term].mean_nats, abs=1e-4)
    assert measured.num_tokens == len(chosen.targets) == 15 + 5
    if has_gradient:
        # The true gradient also passes through the kept keys and values of higher layers.
        assert measured.by_log_factor is not None
        exact = reading_gradient(model, chosen, factors, WEIGHTS)
        assert np.abs(measured.by_log_factor).max() > 0
        assert measured.by_log_factor.shape == exact.by_log_factor.shape


def test_readings_of_one_document_add_up(model: Model) -> None:
    factors, other = factors_for(model), factors_for(model, "ntk")

    def measure(draws: tuple[int, ...]) -> Any:
        meter = DocumentMeter(model, TERMS, lambda document, _: [reading(document, draw) for draw in draws])
        return meter.measure(
            DocumentTask(factors=other, document=0, weights=WEIGHTS, kept=Kept(factors=factors))
        )

    both, apart = measure((0, 1)), [measure((draw,)) for draw in (0, 1)]
    for term in TERMS:
        assert both.sums[term] == apart[0].sums[term] + apart[1].sums[term]
    np.testing.assert_allclose(both.by_log_factor, apart[0].by_log_factor + apart[1].by_log_factor)
    assert both.by_log_attention == pytest.approx(sum(one.by_log_attention for one in apart))
    assert both.num_tokens == 40


def test_keys_are_kept_once_per_document_until_factors_or_facts_change(
    model: Model, num_kept: list[int]
) -> None:
    first, second = factors_for(model), factors_for(model, "ntk")
    meter = DocumentMeter(model, TERMS, readings_of)

    def measure(kept_under: RescaleFactors, draw: int = 0) -> list[int]:
        num_kept.clear()
        for scheme in ("pi", "mrrope-pro"):
            for document in range(NUM_DOCUMENTS):
                factors = factors_for(model, scheme)
                meter.measure(
                    DocumentTask(
                        factors=factors,
                        document=document,
                        draw=draw,
                        kept=Kept(factors=kept_under, draw=draw),
                    )
                )
        return list(num_kept)

    starts = [[int(reading(document, draw).ids[0]) for document in range(NUM_DOCUMENTS)] for draw in (0, 1)]
    assert measure(first) == starts[0]
    num_bytes = meter.num_kept_bytes
    assert num_bytes == NUM_DOCUMENTS * LENGTH * 2 * 2 * (2 * 8) * 4
    assert measure(first) == []
    assert measure(second) == starts[0]
    assert measure(second, draw=1) == starts[1]
    assert meter.num_kept_bytes == num_bytes


def test_a_new_meter_gives_the_same_bits(model: Model) -> None:
    kept_under, factors = factors_for(model), factors_for(model, "ntk")
    task = DocumentTask(factors=factors, document=2, weights=WEIGHTS, kept=Kept(factors=kept_under))
    used, fresh = (DocumentMeter(model, TERMS, readings_of) for _ in range(2))
    for document in range(NUM_DOCUMENTS):
        used.measure(DocumentTask(factors=kept_under, document=document, kept=Kept(factors=kept_under)))
    one, two = used.measure(task), fresh.measure(task)

    assert one.sums == two.sums
    assert one.num_tokens == two.num_tokens
    assert one.by_log_attention == two.by_log_attention
    np.testing.assert_array_equal(one.by_log_factor, two.by_log_factor)


def test_keys_are_kept_in_half_precision(model: Model) -> None:
    task = DocumentTask(factors=factors_for(model), document=0, kept=Kept(factors=factors_for(model, "ntk")))
    whole, half = (
        DocumentMeter(model, TERMS, readings_of, kept_dtype=dtype) for dtype in (None, torch.bfloat16)
    )
    found = [meter.measure(task).sums["text"].mean_nats for meter in (whole, half)]

    assert half.num_kept_bytes == whole.num_kept_bytes // 2
    assert 0 < abs(found[0] - found[1]) < 0.05
