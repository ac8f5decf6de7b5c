"""Objectives that read more than each document once, on a real model: what was paid for is what is found."""

import pytest
from tiny import make_texts

from ropewalk.models.model import load_model
from ropewalk.search.search import search_factors


@pytest.mark.parametrize(
    ("settings", "cost"),
    [({"objective": "needle"}, 2.0), ({"short_weight": 0.5}, 1.25), ({"objective": "tail"}, 1.0)],
)
@pytest.mark.parametrize(("strategy", "num_steps"), [("gradient", 8), ("hybrid", 5)])
def test_a_descent_comes_to_its_end(tiny_model_folder, tmp_path, strategy, num_steps, settings, cost):
    """What the descent found is read on all documents, and the budget is in forward passes all the same."""
    loaded = load_model(tiny_model_folder)
    documents = make_texts(tmp_path, loaded.tokenizer, length=256)
    result = search_factors(
        loaded, documents, target_length=256, strategy=strategy, budget=int(16 * cost),
        serve_with="ropewalk", start_tokens="none", **settings,
    )  # fmt: skip
    trials = result.outcome.trials
    last_step = max(trial.index for trial in trials if trial.gradient is not None)
    assert sum(trial.gradient is not None for trial in trials) == num_steps
    ends = trials[last_step + 1 :]
    assert len(ends) >= 2, "the mean and the last iterate"
    assert all(trial.cost == pytest.approx(cost) for trial in ends)
    assert all(trial.is_complete for trial in ends)
    assert result.outcome.cost <= 16 * cost + 1e-9
