"""Factor sets with near-far entries: each row has the far part for its own length, or none."""

import copy
import json
import shutil

import pytest
import torch
from near_far_by_hand import near_far
from small_models import (
    BOUNDARY,
    LENGTHS,
    LONGEST,
    WINDOW,
    Fresh,
    build,
    check_rows,
    check_steps,
    difference,
    factor_set,
    generate,
    padded,
    prompts,
    tokens,
)
from transformers import DynamicCache, StaticCache

import ropewalk
from ropewalk.errors import ModelError
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models import far_attention
from ropewalk.models.far_cache import FarKeysLayer
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.rope.schemes import scheme_factors


def near_far_set(model, kind="both"):
    """Up to 16 tokens without scaling, then two entries, of which one or both are near-far."""
    geometry = describe(model.config, original_length=WINDOW).geometry
    middle = near_far(geometry, BOUNDARY, 6, attention_factor=1.1)
    long = near_far(geometry, LONGEST, 4)
    plain = scheme_factors("yarn", geometry, BOUNDARY)
    return FactorSet.of({"both": [middle, long], "last": [plain, long], "first": [middle, long.far]}[kind])


@pytest.fixture
def model():
    return build()


@pytest.fixture
def fresh(model):
    """What is right, and the model made to follow its set."""
    entries = near_far_set(model)
    found = Fresh(model, entries)
    ropewalk.apply(model, entries)
    return found


def positions_of(mask):
    return (mask.cumsum(-1) - 1).clamp(min=0)


# ---------------------------------------------------------------- without a cache


@torch.no_grad()
def test_rows_within_the_window_are_read_by_the_base_model(model, monkeypatch):
    batches = [{"input_ids": tokens(2, WINDOW)}, padded(prompts((3, 12, WINDOW)))]
    batches[1]["position_ids"] = positions_of(batches[1]["attention_mask"])
    before = [model(**batch).logits for batch in batches]
    cached = model(input_ids=tokens(1, 9)).past_key_values
    following = model(input_ids=tokens(1, 4), past_key_values=cached).logits
    expected = model.generate(tokens(1, 8), max_new_tokens=8, do_sample=False)
    ropewalk.apply(model, near_far_set(model))
    with monkeypatch.context() as patched:
        patched.setattr(far_attention.FarAttention, "attend", None)
        for batch, logits in zip(batches, before, strict=True):
            assert torch.equal(model(**batch).logits, logits)
        cached = model(input_ids=tokens(1, 9)).past_key_values
        assert not any(isinstance(layer, FarKeysLayer) for layer in cached.layers)
        assert torch.equal(model(input_ids=tokens(1, 4), past_key_values=cached).logits, following)
        assert torch.equal(model.generate(tokens(1, 8), max_new_tokens=8, do_sample=False), expected)
    Model.wrap(model).uninstall()
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(**batches[0]).logits, before[0])


@pytest.mark.parametrize("kind", ["both", "last", "first"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "glm"])
@torch.no_grad()
def test_every_row_is_read_as_if_alone_with_its_own_factors(family, kind):
    model = build(family)
    entries = near_far_set(model, kind)
    fresh = Fresh(model, entries)
    ropewalk.apply(model, entries, original_length=WINDOW)
    check_rows(model, fresh, prompts((WINDOW, WINDOW + 1, BOUNDARY, BOUNDARY + 1, 40, 40)))


def test_sets_of_plain_factors_set_no_attention_implementation(model):
    ropewalk.apply(model, factor_set(model))
    assert model.config._attn_implementation == "sdpa"
    assert not any(hasattr(part, far_attention.ATTRIBUTE) for part in model.modules())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the method has another name in newer versions
@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
@pytest.mark.parametrize("is_reentrant", [False, True])
def test_attention_that_runs_again_in_the_backward_pass_keeps_its_rows(model, fresh, is_reentrant):
    """The second run is outside of the decoder, after another batch was read."""
    batch = padded(prompts((12, 20, 40)))

    def gradient():
        model.zero_grad()
        logits = model(**batch, use_cache=False).logits
        with torch.no_grad():
            model(input_ids=tokens(2, 50))
        logits.logsumexp(-1).sum().backward()
        return model.model.layers[0].self_attn.k_proj.weight.grad

    expected = gradient().clone()
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": is_reentrant})
    assert difference(expected, gradient()) < 1e-6


def test_a_copy_is_its_own(model, fresh):
    twin = copy.deepcopy(model)
    Model.wrap(model).uninstall()
    batch = padded(prompts((12, 40)))
    with torch.no_grad():
        found = twin(**batch).logits
    assert difference(fresh.logits(prompts((40,))[0], 40), found[1]) < 1e-5


# ---------------------------------------------------------------- caches


@torch.no_grad()
def test_rows_that_differ_are_continued_with_their_own_factors(model, fresh):
    texts, new, found = prompts((8, 18, 32)), tokens(3, 3), []
    batch = padded(texts)
    mask, cache = batch["attention_mask"], model(**batch).past_key_values
    assert all(isinstance(layer, FarKeysLayer) for layer in cache.layers)
    for piece in new.split([1, 2], 1):
        mask = torch.cat((mask, torch.ones_like(piece)), 1)
        found.append(model(input_ids=piece, attention_mask=mask, past_key_values=cache).logits)
    logits = torch.cat(found, 1)
    for row, text in enumerate(texts):
        whole = torch.cat((text, new[row : row + 1]), 1)
        assert difference(fresh.logits(whole, whole.shape[1])[-3:], logits[row]) < 1e-5


@torch.no_grad()
def test_a_pinned_loop_has_one_far_part_from_the_first_token_on(model, fresh):
    ids = tokens(2, 40)
    with ropewalk.pinned(model, 40):
        cache = DynamicCache()
        parts = [model(input_ids=part, past_key_values=cache).logits for part in ids.split([10, 8, 1, 21], 1)]
    logits = torch.cat(parts, 1)
    for row in range(2):
        assert difference(fresh.logits(ids[row : row + 1], 40), logits[row]) < 1e-5


@torch.no_grad()
def test_a_cache_with_near_far_factors_of_another_set_is_refused(model, fresh):
    cache = model(input_ids=tokens(1, 30)).past_key_values
    ropewalk.apply(model, factor_set(model))
    with pytest.raises(ModelError, match="cache"):
        model(input_ids=tokens(1, 1), past_key_values=cache)
    ropewalk.apply(model, near_far_set(model, "first"))
    with pytest.raises(ModelError, match="cache"):
        model(input_ids=tokens(1, 1), past_key_values=cache)
    ropewalk.apply(model, near_far_set(model))
    model(input_ids=tokens(1, 1), past_key_values=cache)


@torch.no_grad()
def test_a_static_cache_serves_rows_without_far_parts(model, fresh):
    how = {"max_new_tokens": 4, "do_sample": False}
    short, long = tokens(1, 8), tokens(1, 20)
    static = model.generate(short, cache_implementation="static", **how)
    assert torch.equal(static, model.generate(short, **how))
    with pytest.raises(ModelError, match="cache"):
        model.generate(long, cache_implementation="static", **how)
    with pytest.raises(ModelError, match="cache"):
        model(input_ids=long, past_key_values=StaticCache(config=model.config, max_cache_len=64))


# ---------------------------------------------------------------- generation


@pytest.mark.parametrize(
    ("policy", "kind"), [("pin", "both"), ("recompute", "both"), ("recompute", "last"), ("pin", "first")]
)
def test_generation_is_that_of_fresh_forwards(policy, kind):
    model = build("qwen3")
    entries = near_far_set(model, kind)
    fresh = Fresh(model, entries)
    ropewalk.apply(model, entries)
    without_cache = [{"use_cache": False}] if kind == "both" else []
    for how in ({}, {"prefill_chunk_size": 7}, *without_cache):
        output = generate(model, **padded(prompts()), rope_policy=policy, **how)
        check_steps(fresh, output, LENGTHS, policy)
    within = (3, 10, 14)  # no row has far keys at first, and each gets them at another step
    check_steps(fresh, generate(model, **padded(prompts(within)), rope_policy=policy), within, policy)
    alone = generate(model, input_ids=prompts()[1], rope_policy=policy)
    check_steps(fresh, alone, LENGTHS[1:2], policy)


@pytest.mark.parametrize("policy", ["pin", "recompute"])
def test_beams_score_what_fresh_forwards_do(model, fresh, policy):
    some, num_new = prompts((12, 20)), 14
    beams = generate(
        model, num_new, **padded(some), num_beams=3, num_return_sequences=2, length_penalty=0.0,
        output_scores=True, rope_policy=policy,
    )  # fmt: skip
    for index, ids in enumerate(beams.sequences):
        length = some[index // 2].shape[1]
        own = ids[None, -length - num_new :]
        steps = fresh.steps(own, length, policy).log_softmax(-1)
        score = steps.gather(1, own[0, length:, None]).sum()
        assert abs(float(score - beams.sequences_scores[index])) < 1e-3


@pytest.mark.parametrize("policy", ["pin", "recompute"])
def test_a_conversation_continues_as_if_read_again(model, fresh, policy):
    first = generate(model, 4, input_ids=tokens(1, 10), rope_policy=policy)  # 14 tokens: within the window
    cache = first.past_key_values
    ids = torch.cat((first.sequences, tokens(1, 5)), dim=1)
    second = generate(model, input_ids=ids, past_key_values=cache, rope_policy=policy)
    check_steps(fresh, second, [19], policy)
    third_ids = torch.cat((second.sequences, tokens(1, 2)), dim=1)
    third = generate(model, 3, input_ids=third_ids, past_key_values=cache, rope_policy=policy)
    check_steps(fresh, third, [third_ids.shape[1]], policy)


def test_assisted_decoding_writes_the_same_tokens(model, fresh):
    ids = tokens(1, 12)
    plain = generate(model, input_ids=ids)
    lookup = model.generate(
        ids, max_new_tokens=14, min_new_tokens=14, do_sample=False, prompt_lookup_num_tokens=3
    )
    assert torch.equal(lookup, plain.sequences)


# ---------------------------------------------------------------- installing and saving


def test_a_model_that_can_not_read_so_is_refused_and_keeps_its_factors():
    model = build("llama", _attn_implementation="eager")
    ropewalk.apply(model, factor_set(model))
    standing = Model.wrap(model).installed
    with pytest.raises(ModelError, match="eager") as caught:
        ropewalk.apply(model, near_far_set(model))
    assert "\n" not in str(caught.value)
    assert Model.wrap(model).installed is standing


def test_a_saved_model_is_loaded_with_its_set(tiny_model_folder, tiny_model, tmp_path):
    geometry = describe(tiny_model.config).geometry
    factors = near_far(geometry, 256, 16)
    model = ropewalk.load(tiny_model_folder, factors=factors)
    model.save_pretrained(tmp_path / "saved")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_folder / name, tmp_path / "saved")
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (tiny_model_folder, tmp_path / "saved")
    )
    assert after == {**before, "rope_theta": 100.0}, "and what version 4 of transformers reads"
    again = ropewalk.load(tmp_path / "saved")
    ids = tokens(2, 150)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
        assert torch.equal(again(ids[:, :64]).logits, tiny_model(ids[:, :64]).logits)
        assert difference(tiny_model(ids).logits, model(ids).logits) > 1e-2
    assert Model.wrap(again).installed.factor_set.has_near_far
