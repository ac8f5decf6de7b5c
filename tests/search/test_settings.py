"""What follows from the given settings, what contradicts itself, and the nearest key of a misspelling."""

import math
from typing import get_type_hints

import pytest

from ropewalk.errors import SettingError
from ropewalk.search.settings import SearchOptions, SearchSettings


def chosen(**given):
    settings = SearchSettings(**given)
    return settings.serve_with, settings.space, settings.attention_factor, settings.start_tokens


def test_the_default_serves_everywhere_with_a_searched_attention_factor():
    assert chosen() == ("any", "spline", "search", "none")
    settings = SearchSettings(budget=None, seed=None)
    assert (settings.strategy, settings.num_evaluations) == ("gradient", 6)
    assert SearchSettings(exact=True).num_evaluations == SearchSettings(strategy="cma").num_evaluations == 27


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_the_reference_searches_as_the_paper_does(strategy):
    assert chosen(strategy=strategy) == ("ropewalk", "full", 1.0, "search")
    assert SearchSettings(strategy=strategy).num_evaluations == 1344


@pytest.mark.parametrize("engine", ["any", "transformers", "vllm", "llama.cpp"])
def test_for_every_engine_the_attention_factor_is_searched_without_start_tokens(engine):
    assert chosen(serve_with=engine) == (engine, "spline", "search", "none")


def test_our_own_runtime_holds_everything():
    assert chosen(serve_with="ropewalk") == ("ropewalk", "spline", "search", "search")


@pytest.mark.parametrize(("given", "factor"), [("1", 1.0), (1.2, 1.2), ("longrope", "longrope")])
def test_every_engine_can_be_served_with_a_given_attention_factor(given, factor):
    assert chosen(attention_factor=given) == ("any", "spline", factor, "none")
    assert chosen(serve_with="any", attention_factor=given) == ("any", "spline", factor, "none")


def test_start_tokens_imply_the_only_engine_that_has_them():
    assert chosen(start_tokens="search") == ("ropewalk", "spline", "search", "search")
    assert chosen(start_tokens="none") == ("any", "spline", "search", "none")


@pytest.mark.parametrize("engine", ["any", "vllm"])
def test_the_reference_can_be_limited(engine):
    assert chosen(strategy="evolution", serve_with=engine) == (engine, "full", 1.0, "none")


def test_the_reference_can_search_the_attention_factor_too():
    assert chosen(strategy="evolution", attention_factor="search") == ("ropewalk", "full", "search", "search")


def test_what_is_given_is_told_from_defaults_that_follow():
    settings = SearchSettings(strategy="evolution", seed=None)
    assert settings.given() == {"strategy": "evolution"}
    assert SearchSettings(**settings.given()) == settings


@pytest.mark.parametrize("strategy", ["gradient", "evolution"])
def test_the_attention_factor_of_known_factors_stays_unless_one_is_given(strategy):
    kept = SearchSettings(strategy=strategy).keeping_attention(1.1)
    assert kept.attention_factor == 1.1
    assert kept.keeping_attention(1.3) is kept
    for factor in (1.0, "search", "longrope"):
        settings = SearchSettings(strategy=strategy, attention_factor=factor)
        assert settings.keeping_attention(1.1) is settings


@pytest.mark.parametrize("engine", ["any", "ropewalk"])
def test_only_a_reference_strategy_keeps_attention_by_itself(engine):
    assert SearchSettings(strategy="evolution", serve_with=engine).keeps_attention
    assert not SearchSettings(strategy="evolution", serve_with=engine, attention_factor=1).keeps_attention
    assert not SearchSettings(serve_with=engine).keeps_attention


@pytest.mark.parametrize(
    ("given", "noun"),
    [
        ({"serve_with": "any", "start_tokens": "search"}, "n-hat"),
        ({"serve_with": "vllm", "start_tokens": "search"}, "n-hat"),
        ({"serve_with": "sglang"}, "serve_with"),
        ({"budget": 0}, "budget"), ({"budget": "all"}, "paper"), ({"budget": 2.5}, "budget"),
        ({"budget": "²"}, "budget"), ({"budget": ""}, "budget"),
        ({"seed": -1}, "seed"), ({"attention_factor": "free"}, "longrope"), ({"start_tokens": "8"}, "none"),
        ({"base": "own"}, "as-is"), ({"short_weight": math.inf}, "short_weight"),
        ({"max_minutes": 0.0}, "max_minutes"), ({"max_minutes": math.nan}, "max_minutes"),
    ],
)  # fmt: skip
def test_contradictions_and_wrong_values_are_one_line(given, noun):
    with pytest.raises(SettingError, match=noun) as caught:
        SearchSettings(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [({"budgt": 3}, "budget"), ({"space": "splines"}, "spline"), ({"serve_with": "vlm"}, "vllm")],
)
def test_a_misspelling_names_the_nearest(given, nearest):
    with pytest.raises(SettingError, match=f"'{nearest}'"):
        SearchSettings(**given)


def test_a_budget_is_a_number_or_the_paper_s():
    assert SearchSettings(budget="paper").num_evaluations == 1344
    assert SearchSettings(budget=7).num_evaluations == SearchSettings(budget="07").num_evaluations == 7


def test_keyword_arguments_are_the_fields():
    assert list(get_type_hints(SearchOptions)) == list(SearchSettings.model_fields)
