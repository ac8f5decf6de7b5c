"""Installed factors are what every layer gets, exactly; taken out, they leave the same bits."""

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CohereConfig,
    DynamicCache,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen3_5TextConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.models.rotary import float64_device
from ropewalk.rope.frequencies import cos_sin
from ropewalk.rope.schemes import scheme_factors

WINDOW, TARGET_LENGTH, NUM_LAYERS = 64, 512, 3
SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 2, "max_position_embeddings": WINDOW, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 100.0, "factor": 8.0, "original_max_position_embeddings": WINDOW,
    "long_factor": [4.0] * 8, "short_factor": [1.0] * 8,
}  # fmt: skip


def build(config: PreTrainedConfig) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def llama(**changes: Any) -> Any:
    return build(LlamaConfig(**{**SIZES, "rope_parameters": PLAIN, **changes}))


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, 50, shape, generator=torch.Generator().manual_seed(1))


def factors_for(model: Any, scheme: str = "yarn", **changes: Any) -> RescaleFactors:
    factors = scheme_factors(scheme, describe(model.config).geometry, TARGET_LENGTH)
    return factors.replace(**changes)


@torch.no_grad()
def logits(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    result: Tensor = model(input_ids=ids, **inputs).logits
    return result


def difference(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max() / expected.abs().max())


@contextmanager
def received(model: Any) -> Iterator[list[Any]]:
    """What each attention layer is handed as position embeddings, in order."""
    seen: list[Any] = []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(kwargs["position_embeddings"])

    handles = [
        layer.self_attn.register_forward_pre_hook(look, with_kwargs=True) for layer in model.model.layers
    ]
    yield seen
    for handle in handles:
        handle.remove()


def state(model: nn.Module) -> list[Any]:
    """Everything that installing may touch: buffers, attributes and hooks of every module, configurations."""
    found: list[Any] = []
    for name, module in model.named_modules():
        attributes = {key: value for key, value in module.__dict__.items() if not key.startswith("_")}
        hooks = {key: dict(value) for key, value in module.__dict__.items() if key.endswith("_hooks")}
        buffers = {key: value.tolist() for key, value in module.named_buffers(recurse=False)}
        configs = module.config.to_dict() if hasattr(module, "config") else None
        found.append((name, attributes, hooks, buffers, configs))
    return found


FAMILIES = {
    "halves": LlamaConfig(**SIZES, rope_parameters=PLAIN),
    "neighbours": CohereConfig(**SIZES, rope_parameters=PLAIN),
    "partial": GPTNeoXConfig(**SIZES, rope_parameters={**PLAIN, "partial_rotary_factor": 0.5}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_of_one_are_the_untouched_model_with_an_exact_rotary(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(FAMILIES[family])
    ids = tokens(1, 1500)
    plain = logits(model, ids)
    with Model.wrap(model).using(factors_for(model, "none")):
        ours = logits(model, ids)
    rotary = model.base_model.rotary_emb
    geometry = describe(model.config).geometry
    inverse = torch.tensor(geometry.inverse_frequencies())

    def in_float64(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].double() * inverse
        laid_out = (
            angles.repeat_interleave(2, -1) if family == "neighbours" else torch.cat((angles, angles), -1)
        )
        return laid_out.cos().to(x.dtype), laid_out.sin().to(x.dtype)

    monkeypatch.setattr(rotary, "forward", in_float64)
    exact = logits(model, ids)
    assert difference(exact, ours) < 1e-5
    assert difference(exact, plain) > 3 * difference(exact, ours), "float32 angles are as good here"


def test_every_layer_gets_cos_and_sin_that_are_right_at_four_million() -> None:
    model = llama()
    factors = factors_for(
        model, rescale_factors=((1.0, 1.3, 2.7, 9.99, 64.0, 100.1, 313.0, 1e5),), num_start_tokens=3
    )
    start = 4_194_304
    positions = torch.tensor([[0, 1, 2, 3, start - 1, start]])
    with Model.wrap(model).using(factors), received(model) as seen:
        logits(model, tokens(1, 6), position_ids=positions)
    assert len(seen) == NUM_LAYERS
    geometry, row = factors.geometry, factors.rescale_factors[0]
    with mpmath.workdps(40):
        for column, position in enumerate(positions[0].tolist()):
            for pair in range(geometry.num_pairs):
                rescale = row[pair] if position >= 3 else 1.0
                power = mpmath.mpf(-2 * pair) / geometry.rotary_dim
                angle = position * mpmath.power(geometry.rope_theta, power) / mpmath.mpf(rescale)
                for cos, sin in seen:
                    for index in (pair, pair + geometry.num_pairs):
                        scale = factors.attention_factor
                        assert abs(float(cos[0, column, index]) - float(mpmath.cos(angle)) * scale) < 1e-6
                        assert abs(float(sin[0, column, index]) - float(mpmath.sin(angle)) * scale) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_taking_factors_out_leaves_the_same_bits_and_nothing_behind(dtype: torch.dtype) -> None:
    model = build(MistralConfig(**SIZES, num_key_value_heads=2, rope_parameters=PLAIN, sliding_window=16)).to(
        dtype
    )
    ids = tokens(2, 40)
    before, state_before = logits(model, ids), state(model)
    per_layer = factors_for(model).rescale_factors * NUM_LAYERS
    owner = Model.wrap(model, full_attention=True)
    owner.install(factors_for(model, rescale_factors=per_layer))
    assert not torch.equal(logits(model, ids), before)
    assert state(model) != state_before
    owner.install(factors_for(model))
    Model.wrap(model).uninstall()
    assert state(model) == state_before
    assert torch.equal(logits(model, ids), before)
    Model.wrap(model).uninstall()
    assert state(model) == state_before


def test_half_precision_is_cast_last() -> None:
    model = llama().to(torch.bfloat16)
    factors = factors_for(model)
    positions = torch.arange(300).unsqueeze(0)
    with Model.wrap(model).using(factors), received(model) as seen:
        logits(model, tokens(1, 300))
    cos, sin = cos_sin(factors, positions)
    assert torch.equal(seen[0][0], torch.cat((cos, cos), -1).to(torch.bfloat16))
    assert torch.equal(seen[0][1], torch.cat((sin, sin), -1).to(torch.bfloat16))


def test_start_tokens_keep_their_rotation() -> None:
    model = llama()
    factors = factors_for(model, num_start_tokens=4)
    with Model.wrap(model).using(factors), received(model) as seen:
        logits(model, tokens(1, 10))
    cos = seen[0][0][0, :, : factors.geometry.num_pairs]
    ones = factors.replace(rescale_factors=((1.0,) * 8,))
    assert torch.equal(cos[:4], cos_sin(ones, torch.arange(4))[0].float())
    assert torch.equal(cos[4:], cos_sin(factors, torch.arange(4, 10))[0].float())


def test_each_layer_can_have_a_vector_of_its_own() -> None:
    model = llama()
    rows = tuple(tuple(1.0 + layer + 0.1 * pair for pair in range(8)) for layer in range(NUM_LAYERS))
    factors = factors_for(model, rescale_factors=rows)
    with Model.wrap(model).using(factors), received(model) as seen:
        logits(model, tokens(1, 20))
        logits(model, tokens(1, 20))
    for layer_index, (cos, sin) in enumerate(seen):
        exact_cos, exact_sin = cos_sin(factors, torch.arange(20), layer_index % NUM_LAYERS)
        assert torch.equal(cos[0, :, :8], exact_cos.float())
        assert torch.equal(sin[0, :, 8:], exact_sin.float())


def test_installing_again_changes_the_values_and_never_serves_old_ones() -> None:
    model, ids = llama(), tokens(1, 50)
    fresh = {}
    for scheme in ("pi", "yarn"):
        with Model.wrap(model).using(factors_for(model, scheme)):
            fresh[scheme] = logits(model, ids)
    Model.wrap(model).install(factors_for(model, "pi"))
    hooks = dict(model.model.rotary_emb._forward_hooks)
    for scheme in ("pi", "yarn", "yarn", "pi"):
        Model.wrap(model).install(factors_for(model, scheme))
        assert torch.equal(logits(model, ids), fresh[scheme])
    assert dict(model.model.rotary_emb._forward_hooks) == hooks, "installing again took the model apart"
    shifted = torch.arange(50).unsqueeze(0) * 2
    with Model.wrap(model).using(factors_for(model, "yarn")):
        assert not torch.equal(logits(model, ids, position_ids=shifted), fresh["yarn"])
        assert torch.equal(logits(model, ids), fresh["yarn"])
    rows = factors_for(model, "pi").rescale_factors * NUM_LAYERS
    Model.wrap(model).install(factors_for(model, "pi", rescale_factors=rows))
    assert torch.equal(logits(model, ids), fresh["pi"])


def test_a_table_that_a_family_writes_into_is_made_again() -> None:
    model, ids = llama(), tokens(1, 12)
    with Model.wrap(model).using(factors_for(model)):
        clean = logits(model, ids)
        with received(model) as seen:
            logits(model, ids)
        seen[0][0].mul_(2)
        assert torch.equal(logits(model, ids), clean)


def test_rows_of_a_batch_have_positions_of_their_own() -> None:
    model = llama()
    ids = tokens(2, 16)
    positions = torch.stack((torch.arange(16), torch.arange(100, 116)))
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool).tril()
    with Model.wrap(model).using(factors_for(model, num_start_tokens=3)):
        together = logits(model, ids, position_ids=positions, attention_mask=mask)
        for row in range(2):
            inputs = {"position_ids": positions[row : row + 1], "attention_mask": mask[:1]}
            alone = logits(model, ids[row : row + 1], **inputs)
            assert difference(alone[0], together[row]) < 1e-6


def test_decoding_with_a_cache_is_one_long_read() -> None:
    model, ids = llama(), tokens(1, 90)
    with Model.wrap(model).using(factors_for(model, num_start_tokens=2)):
        whole = logits(model, ids)
        cache = DynamicCache(config=model.config)
        parts = [logits(model, part, past_key_values=cache) for part in ids.split([60, 1, 1, 28], dim=1)]
    assert difference(whole, torch.cat(parts, dim=1)) < 1e-5


@pytest.mark.parametrize(
    "own",
    [{"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}, LONGROPE],
    ids=["dynamic", "longrope"],
)
def test_rules_that_follow_the_length_do_not_act(own: dict[str, Any]) -> None:
    longest = WINDOW if own["rope_type"] == "dynamic" else TARGET_LENGTH
    model, ids = llama(rope_parameters=own, max_position_embeddings=longest), tokens(1, 3 * WINDOW)
    rotary = model.model.rotary_emb
    before = state(model)
    with Model.wrap(model).using(factors_for(model)):
        long, short = logits(model, ids), logits(model, ids[:, :32])
        assert difference(long[:, :32], short) < 1e-5
    assert state(model) == before
    assert difference(logits(model, ids)[:, :32], logits(model, ids[:, :32])) > 1e-3, "the rule never acts"
    assert "forward" not in rotary.__dict__


def test_phi_keeps_its_cache_across_the_original_window() -> None:
    config = Phi3Config(
        **{**SIZES, "max_position_embeddings": TARGET_LENGTH, "rope_parameters": LONGROPE},
        original_max_position_embeddings=WINDOW,
    )
    model = build(config)
    ids = tokens(1, WINDOW - 2)

    def lengths_read() -> list[int]:
        read: list[int] = []
        handle = model.model.embed_tokens.register_forward_pre_hook(
            lambda _, args: read.append(args[0].shape[1])
        )
        model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False)
        handle.remove()
        return read

    assert max(lengths_read()[1:]) > 1, "the rule never acts"
    with Model.wrap(model).using(factors_for(model)):
        assert lengths_read()[1:] == [1] * 5
    assert max(lengths_read()[1:]) > 1


def with_window(kind: str, window: int) -> Any:
    config_class = {"mistral": MistralConfig, "gemma2": Gemma2Config}[kind]
    sizes = {**SIZES, "head_dim": 16, "num_key_value_heads": 2}
    return build(config_class(**sizes, rope_parameters=PLAIN, sliding_window=window))


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
def test_windows_are_lifted_on_request(kind: str) -> None:
    narrow, wide, ids = with_window(kind, 16), with_window(kind, 1024), tokens(1, 60)
    factors = factors_for(narrow)
    before = state(narrow)
    with Model.wrap(wide).using(factors), Model.wrap(narrow, full_attention=True).using(factors):
        expected = logits(wide, ids)
        assert torch.equal(logits(narrow, ids), expected)
        cache = DynamicCache(config=narrow.config)
        parts = [logits(narrow, part, past_key_values=cache) for part in ids.split([40, 1, 19], dim=1)]
        assert difference(expected, torch.cat(parts, dim=1)) < 1e-5
    assert state(narrow) == before


def test_a_model_whose_every_layer_slides_is_refused_beyond_the_window() -> None:
    narrow, ids = with_window("mistral", 16), tokens(1, 60)
    owner, before = Model.wrap(narrow), state(narrow)
    with pytest.raises(ModelError, match="window"):
        owner.install(factors_for(narrow))
    assert state(narrow) == before
    owner.install(factors_for(narrow, target_length=16))  # a window as long as the target is no obstacle
    within = logits(narrow, ids)
    with pytest.raises(ModelError, match="window"):
        owner.install(factors_for(narrow))
    assert torch.equal(logits(narrow, ids), within), "a refused install took the earlier factors out"


def test_sliding_layers_by_design_keep_their_window() -> None:
    """Gemma 2 has one rotary for sliding and global layers: both rotate by the factors."""
    narrow, wide, ids = with_window("gemma2", 16), with_window("gemma2", 1024), tokens(1, 60)
    factors = factors_for(narrow)
    with Model.wrap(narrow).using(factors), Model.wrap(wide).using(factors), received(narrow) as seen:
        assert not torch.equal(logits(narrow, ids), logits(wide, ids))
        assert narrow.config.sliding_window == 16
    assert all(torch.equal(cos, seen[0][0]) for cos, _ in seen)


def test_only_calls_for_one_type_of_layer_change() -> None:
    """Gemma 3 calls one rotary once for each type of layer."""
    kinds = ["sliding_attention", "full_attention"]
    other = {"rope_type": "default", "rope_theta": 10.0}
    sizes = {**SIZES, "num_hidden_layers": 2, "num_key_value_heads": 2, "head_dim": 16, "layer_types": kinds}
    parameters = dict(zip(kinds, (other, PLAIN), strict=True))
    model = build(Gemma3TextConfig(**sizes, rope_parameters=parameters, sliding_window=16))
    described = describe(model.config)
    assert (described.layer_type, described.num_rotary_layers) == ("full_attention", 1)
    owner, ids = Model(model), tokens(1, 40)
    base = logits(model, ids)
    one, pi = (scheme_factors(scheme, described.geometry, TARGET_LENGTH) for scheme in ("none", "pi"))
    with received(model) as own:
        logits(model, ids)
    with owner.using(pi), received(model) as seen:
        changed = logits(model, ids)
    assert all(map(torch.equal, seen[0], own[0])), "the sliding layer's rotary is another"
    assert torch.equal(seen[1][0][0, :, :8], cos_sin(pi, torch.arange(40))[0].float())
    for first, second, expected in ((one, pi, changed), (pi, one, base)):
        rows = first.rescale_factors + second.rescale_factors
        with owner.using(pi.replace(rescale_factors=rows)):
            assert difference(expected, logits(model, ids)) < 1e-5
    assert torch.equal(logits(model, ids), base)


def test_factors_of_another_geometry_are_refused_with_what_differs() -> None:
    model, other = llama(), llama(rope_parameters={**PLAIN, "rope_theta": 625.0})
    with pytest.raises(FactorsError, match="rope_theta"):
        Model.wrap(model).install(factors_for(other))
    assert Model.wrap(model).factors is None
    Model.wrap(model).install(factors_for(model))
    with pytest.raises(FactorsError, match="rope_theta"):
        Model.wrap(model).install(factors_for(other))
    assert Model.wrap(model).factors == factors_for(model), "a refused install took the earlier factors out"


def test_a_window_stated_wrongly_can_be_overridden() -> None:
    model = llama()
    factors = scheme_factors("pi", describe(model.config, original_length=32).geometry, TARGET_LENGTH)
    with pytest.raises(FactorsError, match="original_length"):
        Model.wrap(model).install(factors)
    Model.wrap(model, original_length=32).install(factors)


def test_a_model_that_does_not_turn_as_configured_is_refused() -> None:
    model = llama()
    model.model.rotary_emb.inv_freq *= 0.9
    with pytest.raises(ModelError, match="frequencies"):
        Model.wrap(model).install(factors_for(model))


def test_several_rotaries_of_which_none_has_the_stated_theta_are_refused() -> None:
    model = llama()
    model.model.second = copy.deepcopy(model.model.rotary_emb)
    for rotary in (model.model.rotary_emb, model.model.second):
        rotary.config = copy.deepcopy(model.config)
        rotary.config.rope_parameters["rope_theta"] = 7.0
    with pytest.raises(ModelError, match="rotaries"):
        Model.wrap(model).install(factors_for(model))


def test_installed_gives_back_what_was_there_before_even_after_an_error() -> None:
    model = llama()
    outer, inner = factors_for(model, "pi"), factors_for(model, "yarn")
    Model.wrap(model).install(outer)
    with pytest.raises(RuntimeError), Model.wrap(model).using(inner):
        raise RuntimeError
    assert Model.wrap(model).factors == outer


def test_one_table_serves_inference_and_training() -> None:
    model, ids = llama(), tokens(1, 20)
    Model.wrap(model).install(factors_for(model))
    with torch.inference_mode():
        measured = model(input_ids=ids).logits.clone()
        model(input_ids=ids, position_ids=torch.arange(20).unsqueeze(0))
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    assert torch.equal(output.logits, measured)
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_gradient_checkpointing_sees_each_layers_own_vector() -> None:
    model, ids = llama(), tokens(1, 20)
    rows = tuple((1.0 + layer,) * 8 for layer in range(NUM_LAYERS))
    Model.wrap(model).install(factors_for(model, rescale_factors=rows))

    def gradient() -> Tensor:
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        result: Tensor = model.model.layers[2].self_attn.q_proj.weight.grad
        return result

    expected = gradient()
    model.train()
    model.activation_checkpointing_enable()
    assert difference(expected, gradient()) < 1e-5


def test_a_compiled_model_follows_what_is_installed() -> None:
    model, ids = llama(num_hidden_layers=2), tokens(1, 20)
    owner, compiled = Model.wrap(model), torch.compile(model, backend="aot_eager")
    base = logits(compiled, ids)
    assert torch.equal(base, logits(model, ids))
    for scheme, num_rows in (("pi", 1), ("yarn", 1), ("pi", 2)):
        rows = factors_for(model, scheme).rescale_factors * num_rows
        owner.install(factors_for(model, scheme, rescale_factors=rows))
        assert torch.equal(logits(compiled, ids), logits(model, ids))
        assert not torch.equal(logits(compiled, ids), base)
    owner.uninstall()
    assert torch.equal(logits(compiled, ids), base)
    torch.compiler.reset()


def test_the_memory_of_a_model_is_freed_with_its_last_reference() -> None:
    model = llama()
    owner = Model.wrap(model)
    with owner.using(factors_for(model)):
        logits(model, tokens(1, 5))
    owner.head.logits(torch.zeros(1, 32))
    parameter = weakref.ref(model.lm_head.weight)
    del model, owner
    assert parameter() is None


def test_a_copy_of_an_installed_model_is_its_own() -> None:
    model, ids = llama(), tokens(1, 20)
    untouched = logits(model, ids)
    Model.wrap(model).install(factors_for(model))
    twin = copy.deepcopy(model)
    Model.wrap(twin).uninstall()
    assert torch.equal(logits(twin, ids), untouched)
    assert not torch.equal(logits(model, ids), untouched)


def test_a_device_without_float64_gets_its_table_from_the_cpu() -> None:
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("cuda:1")) == torch.device("cuda:1")


def test_a_position_for_each_axis_is_plain_where_the_rows_are_equal() -> None:
    """Qwen 3.5's text rotary takes a position for each of time, height and width."""
    kinds = ["linear_attention", "full_attention"]
    sizes = {**SIZES, "num_hidden_layers": 2, "layer_types": kinds, "num_key_value_heads": 2, "head_dim": 32}
    model, ids = (
        build(Qwen3_5TextConfig(**sizes, rope_parameters={**PLAIN, "mrope_section": [2, 1, 1]})),
        tokens(1, 20),
    )
    plain = logits(model, ids)
    positions = torch.arange(20).expand(3, 1, 20)
    with Model.wrap(model).using(factors_for(model, "none")):
        assert difference(plain, logits(model, ids)) < 1e-6
        assert torch.equal(logits(model, ids, position_ids=positions), logits(model, ids))
    with Model.wrap(model).using(factors_for(model)):
        assert difference(plain, logits(model, ids)) > 1e-3
        image = positions.clone()
        image[1, 0, 5:10] = 5
        with pytest.raises(ModelError, match="height"):
            logits(model, ids, position_ids=image)
    assert torch.equal(logits(model, ids), plain)
