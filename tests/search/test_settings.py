"""What follows from what a user said, and what contradicts itself."""

import math

import pytest

from ropewalk.errors import SettingError
from ropewalk.search.engine_constraints import ENGINES, Probes
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import Candidate

BEST = Candidate(rescale_factors=(1.0, 2.0), num_start_tokens=0, attention_factor=1.2)


def chosen(**given):
    settings = SearchSettings.choose(**given)
    return settings.serve_with, settings.space, str(settings.attention_factor), settings.start_tokens


def test_the_default_serves_everywhere():
    assert chosen() == ("any", "spline", "longrope", "none")
    settings = SearchSettings.choose(budget=None, seed=None)
    assert (settings.strategy, settings.num_evaluations) == ("gradient", 27)


@pytest.mark.parametrize("strategy", ["evolution", "random"])
def test_the_reference_searches_as_the_paper_does(strategy):
    assert chosen(strategy=strategy) == ("ropewalk", "full", "1", "search")
    assert SearchSettings.choose(strategy=strategy).num_evaluations == 1344


@pytest.mark.parametrize("engine", ["transformers", "vllm", "llama.cpp"])
def test_engines_that_read_an_attention_factor_have_it_searched(engine):
    assert chosen(serve_with=engine) == (engine, "spline", "search", "none")


def test_our_own_runtime_holds_everything():
    assert chosen(serve_with="ropewalk") == ("ropewalk", "spline", "search", "search")


def test_who_chooses_by_hand_is_not_limited():
    assert chosen(attention_factor="1") == ("ropewalk", "spline", "1", "search")
    assert chosen(start_tokens="none") == ("ropewalk", "spline", "search", "none")


def test_the_reference_can_be_limited():
    assert chosen(strategy="evolution", serve_with="any") == ("any", "full", "longrope", "none")
    assert chosen(strategy="evolution", serve_with="vllm") == ("vllm", "full", "1", "none")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"serve_with": "any", "attention_factor": "1.1"}, "not every engine reads one"),
        ({"serve_with": "vllm", "start_tokens": "search"}, "vllm holds no n-hat"),
        ({"budget": 0}, "The budget is 0"),
        ({"budget": "all"}, "or `paper`"),
        ({"seed": -1}, "The seed is -1"),
        ({"max_minutes": 0.0}, "limit in minutes"),
        ({"max_minutes": math.nan}, "limit in minutes"),
    ],
)
def test_contradictions_and_wrong_numbers_are_one_line(given, said):
    with pytest.raises(SettingError, match=said) as caught:
        SearchSettings.choose(**given)
    assert "\n" not in str(caught.value)


def test_probes_lie_outside_the_limits():
    for engine in ENGINES:
        probes = Probes.outside(engine)
        if engine == "ropewalk":
            assert probes is None
            continue
        candidates = probes.candidates(BEST)
        assert len(candidates) == probes.num_candidates == len(set(candidates))
        assert BEST not in candidates
        assert any(candidate.num_start_tokens > 0 for candidate in candidates)
        moved = [c for c in candidates if c.attention_factor != BEST.attention_factor]
        assert bool(moved) == (engine == "any"), "only there is the attention factor not free"
    with pytest.raises(SettingError, match="no engine 'sglang'"):
        Probes.outside("sglang")
