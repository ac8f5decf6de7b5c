"""A search is checked as a whole before it runs: its target, its budget, its strategy; and what it costs."""

import json

import pytest
from tiny import TINY_SHAPE, make_texts
from transformers import CONFIG_MAPPING

from ropewalk.errors import SettingError
from ropewalk.models.model import load_model
from ropewalk.models.rope_config import describe
from ropewalk.search.plan import plan_search, require_beyond_reach
from ropewalk.search.search import search_factors
from ropewalk.search.settings import SearchSettings

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 32.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 100.0}


def description(rope, longest, model_type="llama", **more):
    config = {**TINY_SHAPE, **more, "max_position_embeddings": longest, "rope_parameters": rope}
    return describe(CONFIG_MAPPING[model_type](**config))


@pytest.mark.parametrize(
    ("described", "reach"),
    [
        (description(LLAMA3, 1024), 1024),
        (description({**LONGROPE}, 512, "phi3", pad_token_id=0, original_max_position_embeddings=64), 512),
        (description(YARN, 256), 256),
        (description({"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}, 64), 256),
        (description(PLAIN, 64, "cohere", model_max_length=512, num_key_value_heads=2), 512),
    ],
    ids=["llama3", "longrope", "yarn", "linear", "model_max_length"],
)
def test_a_target_within_the_model_s_own_reach_needs_its_base_named(described, reach):
    assert described.geometry.original_length == 64
    for target in (128, reach):
        with pytest.raises(SettingError, match=str(reach)) as refused:
            require_beyond_reach(described, target, SearchSettings())
        assert "base" in str(refused.value)
        assert ("as-is" in str(refused.value)) == described.has_own_scaling
        require_beyond_reach(described, target, SearchSettings(base="native"))
    require_beyond_reach(described, reach + 1, SearchSettings())


def test_a_plain_model_is_asked_nothing():
    require_beyond_reach(description(PLAIN, 64), 65, SearchSettings())


@pytest.fixture
def scaled(tiny_model, tiny_model_folder):
    """The tiny model with Llama 3.2's scaling: a window of 64, and it reads 1024."""
    config = json.loads((tiny_model_folder / "config.json").read_text())
    config |= {"rope_parameters": LLAMA3, "max_position_embeddings": 1024}
    (tiny_model_folder / "config.json").write_text(json.dumps(config))
    return load_model(tiny_model_folder)


def test_a_search_is_refused_before_anything_is_measured_or_done_where_the_base_is_named(scaled, tmp_path):
    documents = make_texts(tmp_path, scaled.tokenizer, length=512)
    settings = {"target_length": 512, "budget": 9, "strategy": "random", "exact": True}
    with pytest.raises(SettingError, match="already reads 1024"):
        search_factors(scaled, documents, **settings)
    result = search_factors(scaled, documents, base="native", **settings)
    assert result.factors.target_length == 512
    assert result.factors.provenance.base == "native"
    own = next(one for one in result.outcome.choice.closed_forms if one.label.startswith("own llama3"))
    assert own.trial.candidate.rescale_factors == pytest.approx(scaled.description.own.rescale_factors[0])


@pytest.mark.parametrize(
    ("given", "noun"),
    [
        ({"budget": 1}, "budget"), ({"strategy": "genetic"}, "genetic"), ({"objective": "speed"}, "speed"),
        ({"space": "full", "num_knots": 4}, "knots"),
        ({"strategy_settings": {"learning_rat": 1}}, "'learning_rate'"),
        ({"strategy_settings": {"learning_rate": -1}}, "learning rate"),
    ],
)  # fmt: skip
def test_a_plan_is_refused_before_weights_are_read(given, noun):
    with pytest.raises(SettingError, match=noun):
        plan_search(description(PLAIN, 64), 256, SearchSettings(**given))


def test_a_plan_runs_on_documents_as_search_factors_does(tiny_model_folder, tmp_path):
    loaded = load_model(tiny_model_folder)
    documents = make_texts(tmp_path, loaded.tokenizer, length=256)
    settings = SearchSettings(strategy="evolution", budget=12, seed=3)
    planned = plan_search(loaded.description, 256, settings).run(loaded, documents)
    assert planned.factors == search_factors(loaded, documents, target_length=256, settings=settings).factors


@pytest.mark.parametrize(
    ("settings", "cost"),
    [({"objective": "needle"}, 1.0), ({"short_weight": 0.5}, 1.25), ({"objective": "facts"}, 1.0)],
)
@pytest.mark.parametrize(("strategy", "num_steps"), [("gradient", 8), ("hybrid", 5)])
def test_a_descent_comes_to_its_end(tiny_model_folder, tmp_path, strategy, num_steps, settings, cost):
    """What the descent found is read on all documents, and the budget is in forward passes all the same."""
    loaded = load_model(tiny_model_folder)
    documents = make_texts(tmp_path, loaded.tokenizer, length=256)
    result = search_factors(
        loaded, documents, target_length=256, strategy=strategy, budget=int(16 * cost),
        serve_with="ropewalk", start_tokens="none", exact=True, **settings,
    )  # fmt: skip
    trials = result.outcome.trials
    last_step = max(trial.index for trial in trials if trial.gradient is not None)
    assert sum(trial.gradient is not None for trial in trials) == num_steps
    ends = trials[last_step + 1 :]
    assert ends, "the last iterate"
    assert all(trial.cost == pytest.approx(cost) for trial in ends)
    assert all(trial.is_complete for trial in ends)
    assert result.outcome.cost <= 16 * cost + 1e-9
