"""Kept keys give the exact score under their own factors, and a gradient that is that of their score."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ropewalk.errors import FactorsError, ModelError
from ropewalk.evaluate.kept_keys import keep, kept_gradient, score_and_keep, score_kept
from ropewalk.evaluate.nll import NllSum, score_reading
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models import key_cache
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.text.readings import Reading

LENGTH, VOCABULARY = 90, 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "cohere": {"logit_scale": 0.25},
    "gpt_neox": {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}},
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that divide no number of queries here."""
    monkeypatch.setattr(key_cache, "TILE_QUERIES", 7)


def build(family: str = "llama", **changes: Any) -> Any:
    config = CONFIG_MAPPING[family](**{**SHAPE, "rope_parameters": PLAIN, **FAMILIES[family], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(config).eval()


def ids(length: int = LENGTH, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed))


def reading(of: Tensor | None = None) -> Reading:
    """Some of the text in the middle, and answers at the end."""
    text, answers = torch.tensor([1, 17, 18, 19, 40, 41, 77]), torch.tensor([85, 86, 88])
    return Reading(ids=ids() if of is None else of, scored={"text": text, "answers": answers})


def factors_for(model: Any, **changes: Any) -> RescaleFactors:
    geometry = describe(model.config).geometry
    values = RescaleFactors.single(
        geometry=geometry,
        target_length=128,
        rescale_factors=np.linspace(1.5, 4.0, geometry.num_pairs),
        num_start_tokens=5,
        attention_factor=1.2,
    )
    return values.replace(**changes)


def other_factors(model: Any) -> RescaleFactors:
    factors = factors_for(model)
    row = tuple(1.1 * value for value in factors.rescale_factors[0])
    return factors.replace(rescale_factors=(row,), attention_factor=1.05, num_start_tokens=2)


def exact(model: Any, read: Reading, factors: RescaleFactors) -> dict[str, NllSum]:
    with Model.wrap(model).using(factors):
        return score_reading(model, read)


def assert_equal(found: dict[str, NllSum], expected: dict[str, NllSum], nats: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for term, of_term in expected.items():
        assert found[term].num_tokens == of_term.num_tokens
        assert found[term].mean_nats == pytest.approx(of_term.mean_nats, abs=nats)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_under_their_own_factors_the_score_is_exact(family: str, attention: str) -> None:
    model = build(family, attn_implementation=attention)
    factors = factors_for(model)
    kept = keep(model, ids(), factors)

    assert_equal(score_kept(model, kept, reading(), factors), exact(model, reading(), factors))
    assert model.config._attn_implementation == attention
    assert Model.wrap(model).factors is None


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_scores_in_full_and_keeps_the_same_keys(family: str) -> None:
    model = build(family)
    factors = factors_for(model)
    sums, kept = score_and_keep(model, reading(), factors)

    assert_equal(sums, exact(model, reading(), factors))
    expected = keep(model, ids(), factors)
    for layer, of_layer in zip(kept.layers, expected.layers, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(layer, of_layer, strict=True))


def test_under_other_factors_a_model_of_one_layer_is_exact() -> None:
    model = build(num_hidden_layers=1)
    kept = keep(model, ids(), factors_for(model))
    other = other_factors(model)
    expected = exact(model, reading(), other)

    assert_equal(score_kept(model, kept, reading(), other), expected)
    with pytest.raises(AssertionError):
        assert_equal(score_kept(model, kept, reading(), kept.factors), expected)


def test_factors_per_layer_are_rotated_layer_by_layer() -> None:
    model = build()
    single = factors_for(model)
    rows = tuple(tuple(scale * v for v in single.rescale_factors[0]) for scale in (1.0, 1.3, 0.8))
    factors = single.replace(rescale_factors=rows)
    kept = keep(model, ids(), factors)

    assert_equal(score_kept(model, kept, reading(), factors), exact(model, reading(), factors))
    with pytest.raises(FactorsError, match="vector"):
        kept_gradient(model, kept, reading(), factors, {"text": 1.0, "answers": 1.0})


def test_tokens_that_differ_from_the_kept_text_run_through_the_model() -> None:
    model = build()
    factors = factors_for(model)
    changed = torch.cat((ids(80), ids(14, seed=1)))
    changed[30] = (changed[30] + 1) % VOCABULARY
    kept = keep(model, ids()[:80], factors)
    read = reading(changed)
    queries = kept.queries(read).tolist()

    assert queries == [0, 16, 17, 18, 30, 39, 40, 76, *range(80, 88)]
    # Tokens between 30 and the end saw the other token 30 when they were kept, all others are exact.
    exact_terms = Reading(ids=changed, scored={"text": torch.tensor([1, 17, 18, 19])})
    assert_equal(score_kept(model, kept, exact_terms, factors), exact(model, exact_terms, factors))
    unchanged = Reading(ids=torch.cat((ids(80), ids(14, seed=1))), scored=read.scored)
    assert_equal(score_kept(model, kept, unchanged, factors), exact(model, unchanged, factors))


def test_only_queries_run_through_the_model() -> None:
    model = build()
    kept = keep(model, ids(), factors_for(model))
    num_tokens: list[int] = []
    model.model.layers[1].mlp.register_forward_pre_hook(lambda _, args: num_tokens.append(args[0].shape[1]))
    score_kept(model, kept, reading(), other_factors(model))

    assert num_tokens == [10]


def test_keys_are_kept_in_half_precision() -> None:
    model = build()
    factors = factors_for(model)
    kept, half = keep(model, ids(), factors), keep(model, ids(), factors, dtype=torch.bfloat16)

    assert half.num_bytes == kept.num_bytes // 2 == 3 * 2 * LENGTH * 2 * 8 * 2
    assert half.layers[0][0].device.type == "cpu"
    assert_equal(
        score_kept(model, half, reading(), factors), score_kept(model, kept, reading(), factors), 0.05
    )


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_what_finite_differences_say(family: str, checkpoint: bool) -> None:
    model = build(family).double()
    factors = other_factors(model)
    kept = keep(model, ids(), factors_for(model))
    weights = {"text": 1.0, "answers": 0.5}
    precise = family == "gpt_neox"  # the others norm in float32
    step, tolerance = (1e-5, 1e-5) if precise else (5e-4, 1e-2)

    def nats(at: RescaleFactors) -> float:
        sums = kept_gradient(model, kept, reading(), at, weights, checkpoint=False).sums  # in float64
        return sum(weights[term] * of_term.nll_sum_nats for term, of_term in sums.items())

    def slope(change: Callable[[float], RescaleFactors]) -> float:
        up, down = (nats(change(math.exp(sign * step))) for sign in (1, -1))
        return (up - down) / (2 * step)

    def scaled(pair: int, scale: float) -> RescaleFactors:
        row = list(factors.rescale_factors[0])
        row[pair] *= scale
        return factors.replace(rescale_factors=(tuple(row),))

    found = kept_gradient(model, kept, reading(), factors, weights, checkpoint=checkpoint)
    expected = [
        slope(lambda scale, pair=pair: scaled(pair, scale))  # type: ignore[misc]
        for pair in range(len(found.by_log_factor))
    ]
    attention = slope(lambda scale: factors.replace(attention_factor=factors.attention_factor * scale))

    largest = np.abs(expected).max()
    assert largest > 1e-2
    np.testing.assert_allclose(found.by_log_factor, expected, rtol=tolerance, atol=tolerance * largest)
    assert found.by_log_attention == pytest.approx(attention, rel=tolerance)
    assert_equal(found.sums, score_kept(model, kept, reading(), factors), 1e-6)


def test_a_window_shorter_than_the_text_is_refused() -> None:
    sliding = CONFIG_MAPPING["gemma2"](
        **{**SHAPE, "rope_parameters": PLAIN, "head_dim": 8, "sliding_window": 64}
    )
    model = AutoModelForCausalLM.from_config(sliding).eval()
    with pytest.raises(ModelError, match="window"):
        keep(model, ids(), factors_for(model))

    factors = factors_for(model)
    kept = keep(model, ids(60), factors)
    short = Reading(ids=ids(60), scored={"text": torch.tensor([30, 59])})
    assert_equal(score_kept(model, kept, short, factors), exact(model, short, factors))
