"""Models read with near-far factors as a reading by hand does, in every way that texts are read."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from near_far_by_hand import logits_by_hand, near_far
from small_models import PLAIN, SIZES, WINDOW, WITH_HEADS, build, difference, padded, tokens
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma3TextConfig,
    GptOssConfig,
    Qwen2Config,
    StaticCache,
)

from ropewalk.errors import ModelError
from ropewalk.models import far_part
from ropewalk.models.far_cache import FarKeysLayer
from ropewalk.models.model import Model

NEAR_WINDOW, LENGTH = 5, 40
MIX = {
    **SIZES, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 48,
    "max_position_embeddings": 4 * WINDOW,
}  # fmt: skip
CONFIGS = {
    "mix": Qwen2Config(**MIX, num_key_value_heads=2, rope_parameters=PLAIN, use_sliding_window=True),
    "gemma3_text": Gemma3TextConfig(
        **MIX,
        **WITH_HEADS,
        rope_parameters={"sliding_attention": PLAIN, "full_attention": {**PLAIN, "rope_theta": 200.0}},
    ),
}
BY_HAND = ["llama", "qwen3", "gpt_neox", *CONFIGS]
TOLERANCE = 1e-5


def make(family: str = "llama", **changes: Any) -> Any:
    if family not in CONFIGS:
        return build(family, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[family])).eval()


def scale_of(model: Any) -> int:
    """How many times longer the windows and the texts of a model are."""
    return int(model.config.max_position_embeddings) // WINDOW


def factors_of(model: Any, window: int = NEAR_WINDOW) -> Any:
    scale = scale_of(model)
    geometry = Model.wrap(model, original_length=scale * WINDOW).geometry
    return near_far(geometry, scale * 4 * WINDOW, scale * window)


@pytest.fixture
def model() -> Any:
    return make()


@pytest.fixture
def installed(model: Any) -> Any:
    """A model that reads with near-far factors."""
    Model.wrap(model).install(factors_of(model))
    return model


# ---------------------------------------------------------------- a whole text


@pytest.mark.parametrize("family", BY_HAND)
@torch.no_grad()
def test_logits_are_those_by_hand(family: str) -> None:
    model = make(family)
    ids = tokens(2, scale_of(model) * LENGTH)
    base = model(input_ids=ids).logits
    for window in (1, NEAR_WINDOW, WINDOW - 1):
        factors = factors_of(model, window)
        expected = logits_by_hand(model, ids, factors)
        with Model.wrap(model).using(factors):
            found = model(input_ids=ids).logits
            assert model.config._attn_implementation == "near_far"
        assert difference(expected, base) > 1e-2
        assert difference(expected, found) < TOLERANCE

    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=ids).logits, base)


@torch.no_grad()
def test_each_layer_can_have_far_factors_of_its_own(model: Any) -> None:
    factors = factors_of(model)
    (row,) = factors.rescale_factors
    rows = tuple(tuple(value * (1 + layer / 4) for value in row) for layer in range(4))
    factors, ids = factors.replace(rescale_factors=rows), tokens(1, LENGTH)
    expected = logits_by_hand(model, ids, factors)
    with Model.wrap(model).using(factors):
        assert difference(expected, model(input_ids=ids).logits) < TOLERANCE


def test_gradients_are_those_by_hand(model: Any) -> None:
    ids, factors = tokens(2, LENGTH), factors_of(model)
    weight = model.model.layers[0].self_attn.k_proj.weight

    def gradient(logits: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(logits.logsumexp(-1).sum(), weight)
        return found

    expected = gradient(logits_by_hand(model, ids, factors))
    with Model.wrap(model).using(factors):
        assert difference(expected, gradient(model(input_ids=ids, use_cache=False).logits)) < 1e-4


@torch.no_grad()
def test_other_factors_can_replace_them_for_a_text(installed: Any) -> None:
    ids, model = tokens(1, LENGTH), Model.wrap(installed)
    before = installed(input_ids=ids).logits
    for other in (factors_of(installed).far, factors_of(installed, 2)):
        with model.using(other):
            assert difference(before, installed(input_ids=ids).logits) > 1e-3
        assert torch.equal(installed(input_ids=ids).logits, before)
    twin = copy.deepcopy(installed)
    model.uninstall()
    assert torch.equal(twin(input_ids=ids).logits, before)


@torch.no_grad()
def test_a_model_with_plain_factors_can_be_tried_with_near_far_factors(model: Any) -> None:
    Model.wrap(model).install(factors_of(model).far)
    Model.wrap(model).install(factors_of(model))
    with_other_before = model(input_ids=tokens(1, LENGTH)).logits
    Model.wrap(model).uninstall()
    Model.wrap(model).install(factors_of(model))
    assert torch.equal(model(input_ids=tokens(1, LENGTH)).logits, with_other_before)


@torch.no_grad()
def test_a_compiled_model_reads_alike(installed: Any) -> None:
    ids = tokens(1, LENGTH)
    expected = installed(input_ids=ids).logits
    compiled = torch.compile(installed, backend="eager")
    try:
        assert difference(expected, compiled(input_ids=ids).logits) < TOLERANCE
    finally:
        torch.compiler.reset()


# ---------------------------------------------------------------- caches and padding


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "cohere", "glm", *CONFIGS])
@pytest.mark.parametrize("has_cache", [False, True])
@torch.no_grad()
def test_a_text_in_pieces_is_read_as_the_whole(family: str, has_cache: bool) -> None:
    model = make(family)
    scale = scale_of(model)
    ids = tokens(2, scale * LENGTH)
    Model.wrap(model).install(factors_of(model))
    whole = model(input_ids=ids, use_cache=False).logits
    cache = DynamicCache(config=model.config) if has_cache else None
    found = []
    for piece in ids.split([3 * scale, 9 * scale, 1, 14 * scale, 1, 14 * scale - 2], 1):
        output = model(input_ids=piece, past_key_values=cache, use_cache=True)
        cache, found = output.past_key_values, [*found, output.logits]
    assert difference(whole, torch.cat(found, 1)) < TOLERANCE


@torch.no_grad()
def test_a_cache_stores_far_keys_and_can_be_copied_cropped_and_moved(installed: Any) -> None:
    ids = tokens(2, LENGTH)
    whole = installed(input_ids=ids, use_cache=False).logits
    cache = installed(input_ids=ids[:, :30]).past_key_values
    assert all(type(layer) is FarKeysLayer for layer in cache.layers)
    twin = copy.deepcopy(cache)
    twin.crop(-6)
    twin.reorder_cache(torch.tensor([1, 0]))
    found = installed(input_ids=ids.flip(0)[:, 24:], past_key_values=twin).logits
    assert difference(whole.flip(0)[:, 24:], found) < TOLERANCE
    assert cache.get_seq_length() == 30


@torch.no_grad()
def test_keys_of_a_filled_plain_cache_are_rotated_when_they_are_read(installed: Any) -> None:
    ids = tokens(1, LENGTH)
    cache = DynamicCache()
    for layer in installed(input_ids=ids[:, :30]).past_key_values.layers:
        half = layer.keys.shape[-1] // 2
        cache.update(layer.keys[..., :half], layer.values, len(cache.layers))
    found = installed(input_ids=ids[:, 30:], past_key_values=cache).logits
    assert difference(installed(input_ids=ids, use_cache=False).logits[:, 30:], found) < TOLERANCE


@pytest.mark.parametrize("family", ["llama", "mix"])
@torch.no_grad()
def test_padded_rows_are_read_as_if_alone(family: str) -> None:
    model = make(family)
    Model.wrap(model).install(factors_of(model))
    longest = scale_of(model) * LENGTH
    lengths = (3, longest - 15, longest)
    prompts = [tokens(1, length, seed=length) for length in lengths]
    alone = [model(input_ids=prompt, use_cache=False).logits[0] for prompt in prompts]
    left = padded(prompts)
    positions = (left["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    right = {
        name: torch.stack([row.roll(length) for row, length in zip(value, lengths, strict=True)])
        for name, value in left.items()
    }
    of_left = model(**left, position_ids=positions).logits
    of_right = model(**right).logits
    cache = None
    for start, end in ((0, 20), (20, longest - 1), (longest - 1, longest)):
        mask = left["attention_mask"][:, :end]
        output = model(input_ids=left["input_ids"][:, start:end], attention_mask=mask, use_cache=True,
                       position_ids=positions[:, start:end], past_key_values=cache)  # fmt: skip
        cache = output.past_key_values
    for row, length in enumerate(lengths):
        assert difference(alone[row], of_left[row, -length:]) < TOLERANCE
        assert difference(alone[row], of_right[row, :length]) < TOLERANCE
        assert difference(alone[row][-1], output.logits[row, -1]) < TOLERANCE


@pytest.mark.parametrize("how", [{"use_cache": False}, {"prefill_chunk_size": 7}, {"num_beams": 3}], ids=str)
def test_generation_continues_as_fresh_readings_do(installed: Any, how: dict[str, Any]) -> None:
    prompts, num_new = [tokens(1, 12), tokens(1, 20, seed=2)], 8
    output = installed.generate(**padded(prompts), max_new_tokens=num_new, min_new_tokens=num_new,
                                do_sample=False, return_dict_in_generate=True, output_logits=True,
                                output_scores=True, length_penalty=0.0, **how)  # fmt: skip
    for row, prompt in enumerate(prompts):
        ids = output.sequences[row : row + 1, 20 - prompt.shape[1] :]
        with torch.no_grad():
            steps = installed(input_ids=ids, use_cache=False).logits[0, prompt.shape[1] - 1 : -1]
        if "num_beams" in how:
            chosen = steps.log_softmax(-1).gather(1, ids[0, prompt.shape[1] :, None])
            assert abs(float(chosen.sum() - output.sequences_scores[row])) < 1e-3
        else:
            assert difference(steps, torch.stack(output.logits, 1)[row]) < 1e-4


# ---------------------------------------------------------------- refusals


def test_what_attention_does_not_serve_is_refused(installed: Any) -> None:
    ids = tokens(1, 20)
    for inputs, noun in (
        ({"attention_mask": torch.ones(1, 1, 20, 20, dtype=torch.bool).tril()}, "mask"),
        ({"attention_mask": torch.tensor([[1, 1, 0] + [1] * 17])}, "mask"),
        ({"position_ids": torch.tensor([[*range(10), *range(10)]]), "use_cache": False}, "packed"),
        ({"past_key_values": StaticCache(config=installed.config, max_cache_len=64)}, "cache"),
    ):
        with pytest.raises(ModelError, match=noun) as caught, torch.enable_grad():
            installed(input_ids=ids, **inputs)
        assert "\n" not in str(caught.value)


def test_families_that_can_not_read_so_are_refused_and_stay_as_they_are(monkeypatch: Any) -> None:
    sinks = GptOssConfig(**SIZES, **WITH_HEADS, rope_parameters=PLAIN, num_local_experts=2,
                         num_experts_per_tok=1, layer_types=["full_attention"] * 4)  # fmt: skip
    ids = tokens(1, LENGTH)
    for model, noun in (
        (build("deepseek_v2"), "cache"),
        (AutoModelForCausalLM.from_config(sinks).eval(), "sdpa"),
        (build("llama", _attn_implementation="eager"), "eager"),
    ):
        before = model(input_ids=ids).logits
        with pytest.raises(ModelError, match=noun) as caught:
            Model.wrap(model).install(factors_of(model))
        assert "\n" not in str(caught.value)
        assert str(caught.value).count("near window") == 1
        assert torch.equal(model(input_ids=ids).logits, before)


def test_dropout_in_attention_is_refused(installed: Any) -> None:
    for layer in installed.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ModelError, match="dropout"):
        installed.train()(input_ids=tokens(1, 20))


def test_a_window_between_the_trained_length_and_the_target_is_refused() -> None:
    """Distances within such a window are longer than trained ones, and layers with it have no far part."""
    mix = make("mix")
    wide = dataclasses.replace(Model.wrap(mix).description, sliding_window=5 * WINDOW)
    model = Model(mix, description=wide)
    with pytest.raises(ModelError, match="window"):
        model.install(factors_of(mix))


@torch.no_grad()
def test_a_wrong_rotation_of_far_keys_is_noticed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial before the first installation compares hidden states."""
    original = far_part.far_angles
    monkeypatch.setattr(far_part, "far_angles", lambda *args: -original(*args))
    with pytest.raises(ModelError, match="hidden states"):
        Model.wrap(model).install(factors_of(model))
