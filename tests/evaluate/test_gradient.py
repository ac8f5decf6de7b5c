"""The gradient is that of plain autograd and of finite differences, and nothing of it stays behind."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaForCausalLM

from ropewalk.errors import FactorsError, ModelError
from ropewalk.evaluate import gradient as gradient_module
from ropewalk.evaluate.gradient import NllGradient, gradient_cost, kept_bytes, nll_gradient, will_checkpoint
from ropewalk.evaluate.nll import score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models import activation_checkpointing as recompute_module
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.text.windows import TokenWindow

LENGTH, NUM_SCORED, VOCABULARY = 90, 71, 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    "initializer_range": 0.2,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 100.0}


def halves(x: Tensor) -> Tensor:
    return torch.cat((x, x), -1)


def neighbours(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1)


# What differs from SHAPE, and how a pair's cos stands in what the rotary returns.
FAMILIES: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "llama": ({}, halves),
    "glm": ({"head_dim": 8, "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}, halves),
    "cohere": ({"logit_scale": 0.25}, neighbours),
    "gpt_neox": ({"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}, halves),
    "phi": ({"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}, halves),
    "gemma2": ({"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "head_dim": 8}, halves),
}


def build(family: str) -> Any:
    changes, _ = FAMILIES[family]
    config = CONFIG_MAPPING[family](**{**SHAPE, "rope_parameters": PLAIN, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoModelForCausalLM.from_config(config).eval().double()


def window(length: int = LENGTH, num_scored: int = NUM_SCORED) -> TokenWindow:
    ids = torch.randint(1, VOCABULARY, (length,), generator=torch.Generator().manual_seed(length))
    return TokenWindow(ids=ids, num_scored=num_scored)


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


def by_autograd(
    model: Any, read: TokenWindow, factors: RescaleFactors, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, NDArray[np.float64], float]:
    """Nats and derivatives by ln lambda and ln attention, with every tensor kept and a table of our own."""
    layout = FAMILIES[model.config.model_type][1]
    log_factor = torch.tensor(np.log(factors.array()[0]), requires_grad=True)
    log_attention = torch.tensor(math.log(factors.attention_factor), dtype=torch.float64, requires_grad=True)

    def table(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        turned = position_ids[..., None] * torch.tensor(factors.geometry.inverse_frequencies())
        late = position_ids[..., None] >= factors.num_start_tokens
        turned = layout(torch.where(late, turned / log_factor.exp(), turned))
        return turned.cos() * log_attention.exp(), turned.sin() * log_attention.exp()

    with monkeypatch.context() as patch:
        patch.setattr(model.base_model.rotary_emb, "forward", table)
        logits = model(read.ids.unsqueeze(0)).logits[0]
    nats = cross_entropy(logits[:-1], read.ids[1:], reduction="none")[-read.num_scored :].sum()
    by_factor, by_attention = torch.autograd.grad(nats, (log_factor, log_attention))
    return float(nats.detach()), by_factor.numpy(), float(by_attention)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that divide no length here."""
    monkeypatch.setattr(recompute_module, "MLP_TILE_TOKENS", 16)
    monkeypatch.setattr(gradient_module, "TILE_LOGITS", 1)
    monkeypatch.setattr(gradient_module, "FEWEST_ROWS", 13)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("small_tiles")
def test_it_is_the_gradient_of_plain_autograd(
    family: str, checkpoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(family)
    factors = factors_for(model)
    nats, by_log_factor, by_log_attention = by_autograd(model, window(), factors, monkeypatch)
    found = nll_gradient(model, window(), factors, checkpoint=checkpoint)

    # Some families norm in float32 whatever the model is in.
    assert found.nll.num_tokens == NUM_SCORED
    assert found.nll.nll_sum_nats == pytest.approx(nats, rel=1e-6)
    np.testing.assert_allclose(
        found.by_log_factor, by_log_factor, rtol=1e-4, atol=1e-4 * np.abs(by_log_factor).max()
    )
    assert found.by_log_attention == pytest.approx(by_log_attention, rel=1e-4)
    assert np.abs(by_log_factor).min() > 1e-3, "the test would not notice a zero"


@pytest.mark.parametrize("family", ["gpt_neox", "cohere", "llama"])
def test_it_is_what_finite_differences_say(family: str) -> None:
    model = build(family)
    factors = factors_for(model)
    precise = family == "gpt_neox"  # the others norm in float32
    step = 1e-5 if precise else 3e-3

    def slope(change: Callable[[float], RescaleFactors]) -> float:
        up, down = (
            nll_gradient(model, window(), change(math.exp(sign * step))).nll.nll_sum_nats for sign in (1, -1)
        )
        return (up - down) / (2 * step)

    def scaled(pair: int, scale: float) -> RescaleFactors:
        row = list(factors.rescale_factors[0])
        row[pair] *= scale
        return factors.replace(rescale_factors=(tuple(row),))

    found = nll_gradient(model, window(), factors, checkpoint=True)
    expected = [
        slope(lambda scale, pair=pair: scaled(pair, scale)) for pair in range(len(found.by_log_factor))
    ]  # type: ignore[misc]
    attention = slope(lambda scale: factors.replace(attention_factor=factors.attention_factor * scale))

    tolerance = 1e-6 if precise else 1e-2
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found.by_log_factor, expected, rtol=tolerance, atol=tolerance * largest)
    assert found.by_log_attention == pytest.approx(attention, rel=tolerance)


@pytest.mark.parametrize("changes", [{}, {"num_start_tokens": 0}, {"attention_factor": 1.0}])
@pytest.mark.parametrize("num_scored", [1, 40, 89])
def test_its_value_is_that_of_scoring(
    tiny_model: LlamaForCausalLM, changes: dict[str, Any], num_scored: int
) -> None:
    factors = factors_for(tiny_model, **changes)
    read = window(LENGTH, num_scored)
    with Model.wrap(tiny_model).using(factors):
        scored = score_windows(tiny_model, [read])
    found = nll_gradient(tiny_model, read, factors, checkpoint=True)

    assert found.nll.num_tokens == scored.num_tokens
    assert found.nll.nll_sum_nats == pytest.approx(scored.nll_sum_nats, rel=1e-5)


def test_bfloat16_is_near(tiny_model: LlamaForCausalLM) -> None:
    factors = factors_for(tiny_model)
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))  # so that both have the same weights
    precise = nll_gradient(tiny_model, window(), factors)
    rough = nll_gradient(tiny_model.to(torch.bfloat16), window(), factors)
    with Model.wrap(tiny_model).using(factors):
        scored = score_windows(tiny_model, [window()])

    assert rough.nll.nll_sum_nats == pytest.approx(scored.nll_sum_nats, rel=1e-6)
    difference = np.abs(precise.by_log_factor - rough.by_log_factor).max()
    assert 0 < difference < 0.2 * np.abs(precise.by_log_factor).max()


@pytest.mark.usefixtures("small_tiles")
def test_wide_activations_and_logits_exist_in_tiles_only(tiny_model: LlamaForCausalLM) -> None:
    factors = factors_for(tiny_model)
    nll_gradient(tiny_model, window(), factors)  # which looks once at how logits are made
    inner: list[int] = []
    rows: list[int] = []
    for layer in tiny_model.model.layers:
        layer.mlp.gate_proj.register_forward_pre_hook(lambda _, args: inner.append(args[0].shape[-2]))
    tiny_model.lm_head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    nll_gradient(tiny_model, window(), factors, checkpoint=True)

    assert max(inner) == 16
    assert sum(inner) == 2 * LENGTH * len(tiny_model.model.layers), (
        "once forwards, once backwards, not thrice"
    )
    assert rows == [13] * 5 + [6]


@pytest.mark.parametrize("checkpoint", [True, False])
def test_layers_are_run_again_only_where_asked(tiny_model: LlamaForCausalLM, checkpoint: bool) -> None:
    factors = factors_for(tiny_model)
    nll_gradient(tiny_model, window(), factors)
    calls: list[int] = []
    tiny_model.model.layers[1].self_attn.q_proj.register_forward_hook(lambda *_: calls.append(1))
    nll_gradient(tiny_model, window(), factors, checkpoint=checkpoint)

    assert len(calls) == 1 + checkpoint


def test_long_windows_are_computed_twice_of_themselves(
    tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not will_checkpoint(tiny_model, LENGTH)
    assert will_checkpoint(tiny_model, 10_000_000)
    assert gradient_cost(True) > gradient_cost(False) > 1

    used: list[bool] = []
    original = gradient_module.recomputing

    def watched(layers: Any) -> Any:
        used.append(True)
        return original(layers)

    monkeypatch.setattr(gradient_module, "recomputing", watched)
    factors = factors_for(tiny_model)
    nll_gradient(tiny_model, window(), factors)
    assert not used
    monkeypatch.setattr(gradient_module, "KEPT_BYTES", kept_bytes(tiny_model, LENGTH) - 1)
    nll_gradient(tiny_model, window(), factors)
    assert used


def state(model: Any) -> list[Any]:
    """Everything that a gradient may touch."""
    return [
        (
            name,
            {key: value for key, value in module.__dict__.items() if not key.startswith("_")},
            {key: dict(value) for key, value in module.__dict__.items() if key.endswith("_hooks")},
            [(parameter.requires_grad, parameter.grad) for parameter in module.parameters(recurse=False)],
        )
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_model_is_left_as_it_was(
    tiny_model: LlamaForCausalLM, checkpoint: bool, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = factors_for(tiny_model)
    tiny_model.train()
    tiny_model.model.layers[0].eval()
    tiny_model.lm_head.weight.requires_grad_(False)
    before = state(tiny_model)
    assert tiny_model.model.norm.weight.requires_grad
    if fails:
        monkeypatch.setattr(torch.autograd, "grad", interrupt)
        with pytest.raises(KeyboardInterrupt):
            nll_gradient(tiny_model, window(), factors, checkpoint=checkpoint)
    else:
        with torch.no_grad():
            nll_gradient(tiny_model, window(), factors, checkpoint=checkpoint)
            assert not torch.is_grad_enabled()

    assert state(tiny_model) == before
    assert Model.wrap(tiny_model).factors is None


def interrupt(*_args: Any, **_kwargs: Any) -> None:
    raise KeyboardInterrupt


def test_factors_that_were_installed_are_put_back(tiny_model: LlamaForCausalLM) -> None:
    factors = factors_for(tiny_model)
    earlier = factors.replace(attention_factor=1.0)
    Model.wrap(tiny_model).install(earlier)
    before = score_windows(tiny_model, [window()])
    nll_gradient(tiny_model, window(), factors)

    current = Model.wrap(tiny_model)
    assert current is not None
    assert current.factors == earlier
    assert score_windows(tiny_model, [window()]) == before
    cos, _ = tiny_model.model.rotary_emb(torch.zeros(1, 3, 32), torch.arange(3).unsqueeze(0))
    assert not cos.requires_grad


def test_gradients_do_not_add_up_over_calls(tiny_model: LlamaForCausalLM) -> None:
    first, second = (nll_gradient(tiny_model, window(), factors_for(tiny_model)) for _ in range(2))

    np.testing.assert_array_equal(first.by_log_factor, second.by_log_factor)


def test_what_is_not_finite_comes_back(tiny_model: LlamaForCausalLM) -> None:
    factors = factors_for(tiny_model)
    torch.nn.init.constant_(tiny_model.model.norm.weight, math.nan)
    found: NllGradient = nll_gradient(tiny_model, window(), factors, checkpoint=True)

    assert math.isnan(found.nll.nll_sum_nats)
    assert np.isnan(found.by_log_factor).all()
    assert math.isnan(found.by_log_attention)


def test_factors_per_layer_are_refused(tiny_model: LlamaForCausalLM) -> None:
    single = factors_for(tiny_model)
    factors = single.replace(rescale_factors=single.rescale_factors * 2)

    with pytest.raises(FactorsError, match="vector"):
        nll_gradient(tiny_model, window(), factors)
    assert Model.wrap(tiny_model).factors is None


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("family", ["llama", "glm", "gpt_neox"])
def test_the_gradient_by_near_far_factors_is_that_of_finite_differences(
    family: str, checkpoint: bool
) -> None:
    model = build(family)
    start = factors_for(model).replace(num_start_tokens=0, near_window=7, near_attention_factor=1.1)
    found = nll_gradient(model, window(), start, checkpoint=checkpoint)
    assert found.nll.nll_sum_nats == pytest.approx(exact_nats(model, start), rel=1e-5)

    def moved(name: str, value: Any) -> float:
        return exact_nats(model, start.replace(**{name: value}))

    tolerance = 5e-3 * float(np.abs(found.by_log_factor).max())
    step = 3e-4  # the norms are computed in float32: smaller steps are noisy
    for pair, expected in enumerate(found.by_log_factor):
        rows = [start.array()[0] for _ in range(2)]
        for row, sign in zip(rows, (1, -1), strict=True):
            row[pair] *= math.exp(sign * step)
        up, down = (moved("rescale_factors", (tuple(map(float, row)),)) for row in rows)
        assert (up - down) / (2 * step) == pytest.approx(expected, abs=tolerance)
    for name, expected in (
        ("attention_factor", found.by_log_attention),
        ("near_attention_factor", found.by_log_near_attention),
    ):
        up, down = (moved(name, getattr(start, name) * math.exp(sign * step)) for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(expected, abs=tolerance)
    assert Model.wrap(model).factors is None


def exact_nats(model: Any, factors: RescaleFactors) -> float:
    """The NLL of the window's scored tokens, from all logits, float64."""
    ids = window().ids
    with Model.wrap(model).using(factors), torch.no_grad():
        logits = model(ids.unsqueeze(0), use_cache=False).logits[0, -NUM_SCORED - 1 : -1]
    return float(cross_entropy(logits, ids[-NUM_SCORED:], reduction="sum"))


@pytest.mark.parametrize("checkpoint", [True, False])
def test_grouped_heads_are_repeated_where_the_kernel_is_slow(
    tiny_model: LlamaForCausalLM, checkpoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[tuple[int, bool]] = []
    original = recompute_module.scaled_dot_product_attention

    class Watched(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is original:
                heads.append((args[1].shape[1], kwargs["enable_gqa"]))
            return func(*args, **(kwargs or {}))

    factors = factors_for(tiny_model)
    nll_gradient(tiny_model, window(), factors)
    with Watched():
        nll_gradient(tiny_model, window(), factors, checkpoint=checkpoint)

    assert heads == [(4, False)] * 2


def test_layers_that_can_not_be_told_apart_are_refused_where_that_matters(
    tiny_model: LlamaForCausalLM,
) -> None:
    factors = factors_for(tiny_model)
    expected = nll_gradient(copy.deepcopy(tiny_model), window(), factors)
    layers = tiny_model.model.layers
    tiny_model.model.layers = torch.nn.ModuleList([*layers, layers[0]])  # the third is never run
    with pytest.raises(ModelError, match="layers"):
        nll_gradient(tiny_model, window(), factors, checkpoint=True)
    found = nll_gradient(tiny_model, window(), factors, checkpoint=False)

    np.testing.assert_array_equal(found.by_log_factor, expected.by_log_factor)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_model_that_switches_gradients_off_is_refused(
    tiny_model: LlamaForCausalLM, checkpoint: bool
) -> None:
    attention = tiny_model.model.layers[0].self_attn
    attention.forward = torch.no_grad()(attention.forward)
    with pytest.raises(ModelError, match="gradients"):
        nll_gradient(tiny_model, window(), factors_for(tiny_model), checkpoint=checkpoint)


def test_a_head_is_shared_with_a_twin(tiny_model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaForCausalLM(tiny_model.config).eval()
    factors = factors_for(model)
    expected = nll_gradient(model, window(), factors)
    other = LlamaForCausalLM(tiny_model.config).eval()
    other.load_state_dict(model.state_dict())
    Model.wrap(other).share_head_of(Model.wrap(model))
    monkeypatch.setattr("ropewalk.models.model.find_head", interrupt)

    assert nll_gradient(other, window(), factors).nll == expected.nll
