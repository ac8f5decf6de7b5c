"""LongRoPE's second search: on a tuned model, relative to the factors it was tuned with, stored as total."""

import json
import math

import numpy as np
import pytest
from tiny import make_texts

from ropewalk.errors import FactorsError, RunFolderError, SettingError
from ropewalk.evaluate.nll import score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.journal import Journal
from ropewalk.search.plan import plan_search
from ropewalk.search.search import search_factors
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import attention_choices
from ropewalk.search.strategies.initial_candidates import first_candidates
from ropewalk.text.windows import truncate

FIRST, TARGET = 128, 512  # 2 and 8 times the tiny model's window


@pytest.fixture
def documents(loaded, tmp_path):
    return make_texts(tmp_path, loaded.tokenizer, length=TARGET)


@pytest.fixture
def own(loaded):
    return RescaleFactors.single(
        geometry=loaded.geometry,
        target_length=FIRST,
        rescale_factors=[1.0, 1.3, 1.7, 2.2],
        attention_factor=longrope_attention_factor(2, 64),
    )


def search(loaded, documents, own, **changes):
    settings = {
        "target_length": TARGET, "objective": "perplexity", "exact": True, "strategy": "gradient",
        "budget": 12, "seed": 3, **changes,
    }  # fmt: skip
    return search_factors(loaded, documents, base_factors=own, **settings)


def test_the_last_initial_candidate_leaves_the_factors_of_the_training_as_they_are(loaded, own):
    plan = plan_search(loaded.description, TARGET, base_factors=own)
    first, last = first_candidates(plan.space, ("yarn",))
    assert max(first.rescale_factors) == pytest.approx(4.0), "keys are kept under YaRN"
    assert last.rescale_factors == (1.0,) * 4
    assert last.attention_factor * own.attention_factor == pytest.approx(own.attention_factor, abs=0.005)


def test_factors_with_a_near_window_have_no_second_search(loaded, own):
    near_far = scheme_factors("near-far", loaded.geometry, own.target_length)
    with pytest.raises(FactorsError, match="near window"):
        plan_search(loaded.description, TARGET, base_factors=near_far)


def test_the_total_is_the_product_and_gives_the_value_again_on_the_plain_base(loaded, documents, own):
    result = search(loaded, documents, own)
    total, relative = result.searched_factors, result.outcome.best.candidate
    assert total.geometry == loaded.geometry
    assert total.target_length == TARGET
    assert total.array()[0] == pytest.approx(own.array()[0] * np.array(relative.rescale_factors))
    assert max(relative.rescale_factors) <= 1.25 * 4, "512 is 4 times 128, not 8 times 64"
    assert total.provenance.base == "native"
    with loaded.using(total):
        windows = [window for document in documents.documents for window in truncate(document, TARGET)]
        assert score_windows(loaded.model, windows).perplexity == result.value


@pytest.mark.parametrize("beneath", [longrope_attention_factor(2, 64), 1.0, 1.3])
def test_the_total_has_the_attention_factor_that_engines_compute_from_the_whole_ratio(
    loaded, documents, own, beneath
):
    own = own.replace(attention_factor=beneath)
    engine = math.sqrt(1 + math.log(TARGET / 64) / math.log(64))
    total = search(loaded, documents, own, attention_factor="longrope").factors
    assert total.attention_factor == pytest.approx(engine, abs=1e-12)


@pytest.mark.parametrize("beneath", [1.0, 1.0801234497346435])
def test_the_searched_attention_factor_is_that_of_the_total(loaded, own, beneath):
    plan = plan_search(
        loaded.description, TARGET, SearchSettings(), base_factors=own.replace(attention_factor=beneath)
    )
    totals = [beneath * quotient for quotient in plan.space.attention_factors]
    assert totals == pytest.approx(attention_choices("search", loaded.geometry, TARGET))


def test_a_number_is_the_total_s_and_does_not_count_twice(loaded, documents, own):
    result = search(loaded, documents, own.replace(attention_factor=1.1), attention_factor="1.1", budget=8)
    assert result.factors.attention_factor == pytest.approx(1.1)


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_a_reference_strategy_keeps_the_attention_that_the_model_was_tuned_with(
    loaded, documents, own, strategy
):
    result = search(loaded, documents, own, strategy=strategy)
    assert result.factors.attention_factor == pytest.approx(own.attention_factor)


def test_two_steps_of_longrope_attention_are_one():
    """sqrt(1 + ln s / ln L) is sqrt(ln L' / ln L): it telescopes where each step uses its own window."""
    steps = longrope_attention_factor(32, 256) * longrope_attention_factor(16, 256 * 32)
    assert steps == pytest.approx(longrope_attention_factor(512, 256))


def test_factors_and_journal_say_what_the_model_was_tuned_with(loaded, documents, own, tmp_path):
    path = tmp_path / "journal.jsonl"
    factors = search(loaded, documents, own, journal=Journal(path)).factors
    told = RescaleFactors.from_json(factors.to_json(), "memory").provenance.settings["own"]
    assert told == own.as_values()
    assert search(loaded, documents, own, journal=Journal(path)).factors.to_json() == factors.to_json()
    with pytest.raises(RunFolderError, match=r"own\.num_start_tokens is 4"):
        search(loaded, documents, own.replace(num_start_tokens=4), journal=Journal(path))
    with pytest.raises(RunFolderError, match="own"):
        search_factors(
            loaded, documents, target_length=TARGET, strategy="gradient", budget=12, seed=3,
            journal=Journal(path),
        )  # fmt: skip


def test_the_larger_start_counts(loaded, documents, own):
    result = search(loaded, documents, own.replace(num_start_tokens=8))
    assert result.factors.num_start_tokens == 8


def test_what_can_not_be_searched_on(loaded, documents, own):
    with pytest.raises(SettingError, match="already reads 128"):
        search(loaded, documents, own, target_length=FIRST)
    with pytest.raises(SettingError, match="as-is"):
        search(loaded, documents, own, base="as-is")
    other = own.replace(
        geometry=loaded.geometry.__class__(**{**loaded.geometry.as_dict(), "rope_theta": 7.0})
    )
    with pytest.raises(FactorsError, match="rope_theta is 7"):
        search(loaded, documents, other)


def test_a_scaling_in_the_configuration_gets_the_engines_attention_too(tiny_model_folder, documents):
    config = json.loads((tiny_model_folder / "config.json").read_text())
    config["rope_parameters"] = {
        "rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0, "original_max_position_embeddings": 64,
    }  # fmt: skip
    config["max_position_embeddings"] = FIRST
    (tiny_model_folder / "config.json").write_text(json.dumps(config))
    loaded = load_model(tiny_model_folder)
    factors = search(loaded, documents, None, base="as-is", attention_factor="longrope").factors
    assert factors.attention_factor == pytest.approx(longrope_attention_factor(8, 64))
    plan = plan_search(loaded.description, TARGET, SearchSettings(base="as-is"))
    totals = [plan.base_factors.attention_factor * quotient for quotient in plan.space.attention_factors]
    assert totals == pytest.approx(attention_choices("search", loaded.geometry, TARGET))
    one = search(loaded, documents, None, base="as-is", strategy="evolution").factors
    assert one.attention_factor == pytest.approx(0.1 * math.log(2) + 1), "the model keeps its own"
