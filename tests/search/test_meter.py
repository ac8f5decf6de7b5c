"""One document: the sums of its terms, and the derivatives of their weighted sum, on a real model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ropewalk.evaluate.nll import score_windows
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.meter import DocumentMeter, DocumentTask
from ropewalk.text.readings import Reading, readings_of
from ropewalk.text.windows import TokenWindow

LENGTH = 100


@pytest.fixture
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder)


@pytest.fixture
def factors(loaded):
    return scheme_factors("yarn", loaded.geometry, 128)


def ids(seed, length=LENGTH):
    return torch.randint(2, 200, (length,), generator=torch.Generator().manual_seed(seed))


def text_and_answers(seed=0):
    """Every third token is an answer, so that two terms score tokens of one reading in turn."""
    positions = torch.arange(1, LENGTH)
    is_answer = positions % 3 == 0
    return Reading(ids=ids(seed), scored={"text": positions[~is_answer], "answers": positions[is_answer]})


def meter_of(loaded, *readings, terms=("text", "answers")):
    return DocumentMeter(loaded, terms, lambda document, draw: readings)


def test_one_term_is_what_scoring_its_windows_gives(loaded, factors):
    windows = [TokenWindow(ids=ids(1), num_scored=99), TokenWindow(ids=ids(2), num_scored=7)]
    meter = meter_of(loaded, *readings_of(windows, "text"), terms=("text",))
    measure = meter.measure(DocumentTask(factors=factors, document=0))
    with loaded.using(factors):
        expected = score_windows(loaded.model, windows)
    assert measure.sums["text"].num_tokens == expected.num_tokens == 106
    assert measure.sums["text"].nll_sum_nats == pytest.approx(expected.nll_sum_nats, rel=1e-6)
    assert measure.by_log_factor is None


def test_two_terms_of_one_reading_add_up_to_all_its_tokens(loaded, factors):
    calls = []
    loaded.model.register_forward_hook(lambda *_: calls.append(1))
    loaded.model.model.register_forward_hook(lambda *_: calls.append(1))
    meter = meter_of(loaded, text_and_answers())
    meter.measure(DocumentTask(factors=factors, document=0))  # which looks once at how logits are made
    calls.clear()
    measure = meter.measure(DocumentTask(factors=factors, document=0))
    assert len(calls) == 1, "one forward pass"
    with loaded.using(factors):
        expected = score_windows(loaded.model, [TokenWindow(ids=ids(0), num_scored=99)])
    assert [measure.sums[term].num_tokens for term in ("text", "answers")] == [66, 33]
    total = measure.sums["text"] + measure.sums["answers"]
    assert total.nll_sum_nats == pytest.approx(expected.nll_sum_nats, rel=1e-6)


def test_a_gradient_has_the_same_sums(loaded, factors):
    meter = meter_of(loaded, text_and_answers())
    task = DocumentTask(factors=factors, document=0)
    plain = meter.measure(task).sums
    found = meter.measure(replace(task, weights={"text": 0.5, "answers": 3.0})).sums
    for term, nats in plain.items():
        assert found[term].num_tokens == nats.num_tokens
        assert found[term].nll_sum_nats == pytest.approx(nats.nll_sum_nats, rel=1e-5), "without its weight"


def test_the_gradient_is_that_of_the_weighted_sum_over_all_readings(loaded, factors):
    loaded.model.double()
    short = Reading(ids=ids(5, 30), scored={"short": torch.arange(1, 30)})
    weights = {"text": 0.5, "answers": 3.0, "short": 0.7}
    meter = meter_of(loaded, text_and_answers(), short, terms=tuple(weights))
    found = meter.measure(DocumentTask(factors=factors, document=0, weights=weights))

    def weighted(changed):
        sums = meter.measure(DocumentTask(factors=changed, document=0)).sums
        return math.fsum(weights[term] * nats.nll_sum_nats for term, nats in sums.items())

    def slope(change, step=1e-3):
        return (weighted(change(math.exp(step))) - weighted(change(math.exp(-step)))) / (2 * step)

    def scaled(pair, scale):
        row = list(factors.rescale_factors[0])
        row[pair] *= scale
        return factors.replace(rescale_factors=(tuple(row),))

    slopes = [slope(lambda scale, pair=pair: scaled(pair, scale)) for pair in range(4)]
    np.testing.assert_allclose(found.by_log_factor, slopes, rtol=1e-2, atol=1e-2 * np.abs(slopes).max())
    attention = slope(lambda scale: factors.replace(attention_factor=factors.attention_factor * scale))
    assert found.by_log_attention == pytest.approx(attention, rel=5e-2), "the model norms in float32"


def test_a_term_that_no_reading_scores_has_no_tokens(loaded, factors):
    meter = meter_of(loaded, text_and_answers(), terms=("text", "answers", "short"))
    assert meter.measure(DocumentTask(factors=factors, document=0)).sums["short"].num_tokens == 0


def test_document_and_draw_choose_the_readings(loaded, factors):
    by_place = {(0, 0): ids(1, 20), (0, 1): ids(2, 20), (1, 0): ids(3, 20)}
    meter = DocumentMeter(
        loaded,
        ["text"],
        lambda document, draw: [Reading(ids=by_place[document, draw], scored={"text": torch.arange(1, 20)})],
    )
    values = {
        place: meter.measure(DocumentTask(factors=factors, document=place[0], draw=place[1])).sums["text"]
        for place in by_place
    }
    assert len(set(values.values())) == 3


@pytest.mark.parametrize("weights", [None, {"text": 1.0, "answers": 1.0}])
def test_the_factors_of_the_model_are_installed_again(loaded, factors, weights):
    earlier = scheme_factors("pi", loaded.geometry, 256)
    loaded.install(earlier)
    meter_of(loaded, text_and_answers()).measure(DocumentTask(factors=factors, document=0, weights=weights))
    assert loaded.factors == earlier
