import json

import pytest
import torch
from tiny import make_texts

from ropewalk.errors import FactorsError, RunFolderError, SettingError
from ropewalk.evaluate.nll import score_windows
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.journal import Journal
from ropewalk.search.readjust import readjust, short_space
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies.initial_candidates import first_candidates
from ropewalk.text.windows import truncate

WINDOW, LONG = 64, 512

# Facts do not fit into texts of these lengths.
IN_FULL = {"objective": "perplexity", "exact": True}


@pytest.fixture
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder)


@pytest.fixture
def longer(loaded):
    return RescaleFactors.single(
        geometry=loaded.geometry,
        target_length=LONG,
        rescale_factors=[1.0, 2.0, 4.0, 8.0],
        attention_factor=1.2,
        num_start_tokens=2,
    )


@pytest.fixture
def texts(loaded, tmp_path):
    def of(length):
        found = make_texts(tmp_path, loaded.tokenizer, length=length, names="abcd")
        return found.part(0, 2), found.part(2, 4)

    return of


def perplexity(loaded, documents, factors, length):
    windows = [window for document in documents.documents for window in truncate(document, length)]
    with loaded.using(factors):
        return score_windows(loaded.model, windows).perplexity


@pytest.mark.parametrize("length", [32, WINDOW, 96, 256])
def test_at_lengths_below_at_and_above_the_trained_window(loaded, longer, texts, length):
    search, stop = texts(length)
    result = readjust(
        loaded, search, validation_documents=stop, length=length, long_factors=longer, budget=16, **IN_FULL,
    )  # fmt: skip
    assert result.factors.target_length == length
    assert result.factors.geometry == loaded.geometry
    assert max(result.found.factors.rescale_factors[0]) <= 0.5 * 8 + 1e-9, "a lower ceiling"
    assert result.factors.attention_factor == longer.attention_factor
    assert perplexity(loaded, stop, result.factors, length) == min(result.value, result.long_value)
    assert perplexity(loaded, stop, longer, length) == result.long_value
    assert FactorSet.of([longer, result.factors]).for_length(length) == result.factors


def test_it_is_never_worse_than_the_long_factors(loaded, longer, texts):
    """Where every start is hopeless the long ones stay: here the model was trained on them, in effect."""
    search, _ = texts(WINDOW)
    good = longer.replace(rescale_factors=((1.0, 1.0, 1.0, 1.0),), num_start_tokens=0)
    result = readjust(
        loaded, search, length=WINDOW, long_factors=good, budget=9, attention_factor="3", **IN_FULL
    )
    assert not result.is_better
    assert result.factors == good.replace(target_length=WINDOW)
    assert result.long_value < result.value


def test_search_starts_from_the_long_factors_and_from_none_at_all(loaded, longer):
    chosen = SearchSettings(space="full")
    space = short_space(loaded.geometry, WINDOW, longer, chosen, ceiling=1.0)
    starts = first_candidates(space, ("yarn", "ntk"))
    assert [start.rescale_factors for start in starts] == [(1.0, 2.0, 4.0, 8.0), (1.0, 1.0, 1.0, 1.0)]
    assert {start.attention_factor for start in starts} == {1.2}


def test_search_starts_from_what_the_model_was_tuned_with(loaded, longer):
    tuned_with = longer.replace(
        target_length=128, rescale_factors=((1.0, 1.5, 2.0, 2.5),), attention_factor=1.1
    )
    chosen = SearchSettings(space="full", attention_factor="search")
    space = short_space(loaded.geometry, WINDOW, longer, chosen, tuned_with, 1.0)
    _, second, *_ = first_candidates(space, ("yarn",))
    assert second.rescale_factors == (1.0, 1.5, 2.0, 2.5)
    assert second.attention_factor == pytest.approx(1.1)


@pytest.mark.parametrize(("ceiling", "largest"), [(0.5, 4.0), (1.0, 8.0), (0.01, 1.0)])
def test_the_ceiling_is_a_share_of_what_the_model_was_extended_by(loaded, longer, ceiling, largest):
    for name in ("full", "spline"):
        space = short_space(loaded.geometry, WINDOW, longer, SearchSettings(space=name), ceiling=ceiling)
        assert space.largest == pytest.approx(largest)
        assert max(space.snap(longer).rescale_factors) == pytest.approx(largest)


def test_engines_that_read_an_attention_factor_may_search_it(loaded, longer):
    chosen = SearchSettings(attention_factor="search")
    space = short_space(loaded.geometry, WINDOW, longer, chosen, ceiling=0.5)
    assert space.attention_factors[0] == 1.0
    assert space.nearest_attention(1.2) == 1.2


def test_a_journal_goes_on_and_knows_its_long_factors(loaded, longer, texts, tmp_path):
    search, _ = texts(WINDOW)
    path = tmp_path / "journal.jsonl"

    def stop(progress):
        if progress.num_trials == 3:
            raise KeyboardInterrupt

    again = {"length": WINDOW, "long_factors": longer, "budget": 12, **IN_FULL}
    expected = readjust(loaded, search, **again)
    with pytest.raises(KeyboardInterrupt):
        readjust(loaded, search, journal=Journal(path), on_trial=stop, **again)
    result = readjust(loaded, search, journal=Journal(path), **again)
    assert result.found.factors.to_json() == expected.found.factors.to_json()
    assert json.loads(path.read_text().splitlines()[0])["identity"]["space"]["longer"] == longer.as_values()
    again["long_factors"] = longer.replace(attention_factor=1.1)
    with pytest.raises(RunFolderError, match=r"space.longer.attention_factor.*1\.1.*1\.2"):
        readjust(loaded, search, journal=Journal(path), **again)


def test_spaces_of_searches_that_extend_are_written_as_ever(loaded):
    assert "longer" not in SearchSpace(geometry=loaded.geometry, target_length=128).as_dict()


def test_the_model_is_left_as_it_was(loaded, longer, texts):
    search, _ = texts(32)
    ids = search.documents[0].ids[None]
    with torch.no_grad():
        before = loaded.model(input_ids=ids).logits
        readjust(loaded, search, length=32, long_factors=longer, budget=8, **IN_FULL)
        assert torch.equal(loaded.model(input_ids=ids).logits, before)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"length": LONG}, SettingError, "below the 512 that"),
        ({"length": 1}, SettingError, "at least 2"),
        ({"ceiling": 0.0}, SettingError, "ceiling is 0.0"),
        ({"ceiling": 1.5}, SettingError, "at most 1"),
        ({"objective": "tail"}, SettingError, "objective is tail"),
        ({"short_weight": 0.5}, SettingError, "short weight"),
        ({"space": "longrope2"}, SettingError, "longrope2"),
        ({"base": "as-is"}, SettingError, "base"),
        ({"near_window": 8}, SettingError, "near_window"),
        ({"budget": 1}, SettingError, "The budget is 1"),
    ],
)
def test_wrong_settings_are_one_line(loaded, longer, texts, tmp_path, changes, error, said):
    search, _ = texts(WINDOW)
    path = tmp_path / "journal.jsonl"
    with pytest.raises(error) as caught:
        readjust(
            loaded, search, journal=Journal(path), **{"length": WINDOW, "long_factors": longer, **changes}
        )
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_factors_of_another_model_and_of_layers_are_refused(loaded, longer, texts):
    search, _ = texts(WINDOW)
    geometry = loaded.geometry.__class__(**{**loaded.geometry.as_dict(), "original_length": 128})
    with pytest.raises(FactorsError, match="original_length is 128"):
        readjust(loaded, search, length=WINDOW, long_factors=longer.replace(geometry=geometry))
    rows = longer.replace(rescale_factors=longer.rescale_factors * 2)
    with pytest.raises(SettingError, match="differ between layers"):
        readjust(loaded, search, length=WINDOW, long_factors=rows)


@pytest.mark.parametrize("name", ["long_factors", "trained_factors"])
def test_factors_with_a_near_window_are_refused(loaded, longer, texts, name):
    near_far = scheme_factors("near-far", loaded.geometry, longer.target_length)
    with pytest.raises(FactorsError, match="near window"):
        readjust(loaded, texts(WINDOW)[0], length=WINDOW, **{"long_factors": longer, name: near_far})
