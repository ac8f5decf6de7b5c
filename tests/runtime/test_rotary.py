"""Forward passes with a factor set: each row by its own length; caches never mix factors."""

import copy
import dataclasses

import pytest
import torch
from small_models import (
    BOUNDARY,
    FAMILIES,
    LONGEST,
    WINDOW,
    Fresh,
    build,
    check_rows,
    difference,
    factor_set,
    padded,
    tokens,
)
from transformers import DynamicCache

import ropewalk
from ropewalk.errors import FactorsError, ModelError
from ropewalk.models.model import Model
from ropewalk.rope.frequencies import StackedFactors, cos_sin


def state(model):
    found = []
    for name, module in model.named_modules():
        attributes = {key: value for key, value in module.__dict__.items() if not key.startswith("_")}
        private = [key for key in module.__dict__ if key in ("_prepare_cache_for_generation", "_prefill")]
        configs = module.config.to_dict() if hasattr(module, "config") else None
        found.append((name, attributes, private, configs))
    return found


def test_stacked_factors_are_the_same_bits_row_by_row():
    entries = factor_set(build()).entries
    positions = torch.arange(3 * 40).view(3, 40) % 50
    cos, sin = StackedFactors.of(entries, torch.device("cpu")).cos_sin(positions)
    for row, factors in enumerate(entries):
        exact_cos, exact_sin = cos_sin(factors, positions[row])
        assert torch.equal(cos[row], exact_cos)
        assert torch.equal(sin[row], exact_sin)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_row_is_read_as_if_it_were_alone_under_its_own_factors(family):
    model = build(family)
    entries = factor_set(model)
    fresh = Fresh(model, entries)
    ropewalk.apply(model, entries, original_length=WINDOW)
    lengths = (WINDOW, WINDOW + 1, BOUNDARY + 1, 40)
    check_rows(model, fresh, [tokens(1, length, seed=length) for length in lengths])


@torch.no_grad()
def test_right_padding_changes_nothing(model, fresh):
    prompt = tokens(1, 20)
    ids = torch.cat((torch.cat((prompt, torch.zeros(1, 12, dtype=torch.long)), 1), tokens(1, 32)))
    mask = torch.ones(2, 32, dtype=torch.long)
    mask[0, 20:] = 0
    logits = model(input_ids=ids, attention_mask=mask).logits
    assert difference(fresh.logits(prompt, 20), logits[0, :20]) < 1e-5
    assert difference(fresh.logits(ids[1:], 32), logits[1]) < 1e-5


@torch.no_grad()
def test_a_cache_keeps_its_factors_and_refuses_to_outgrow_them(model, fresh):
    ids = tokens(1, 26)
    cache = model(input_ids=ids[:, :18]).past_key_values
    parts = [
        model(input_ids=part, past_key_values=cache).logits for part in ids[:, 18:24].split([1, 1, 4], 1)
    ]
    expected = fresh.logits(ids[:, :24], 24)[18:]
    assert difference(expected, torch.cat(parts, 1)[0]) < 1e-5
    with pytest.raises(FactorsError, match="Row 0"):
        model(input_ids=ids[:, 24:25], past_key_values=cache)
    with pytest.raises(FactorsError, match="64"):
        model(input_ids=tokens(1, 65))


@torch.no_grad()
def test_a_pinned_loop_crosses_every_boundary(model, fresh):
    ids = tokens(2, 40)
    with ropewalk.pinned(model, 40):
        cache = DynamicCache(config=model.config)
        parts = [model(input_ids=part, past_key_values=cache).logits for part in ids.split([10, 8, 1, 21], 1)]
        with pytest.raises(FactorsError, match="65"):
            model(input_ids=tokens(2, 25), past_key_values=cache)
    logits = torch.cat(parts, 1)
    for row in range(2):
        assert difference(fresh.logits(ids[row : row + 1], 40), logits[row]) < 1e-5
    # What was pinned goes on so, also outside.
    after = model(input_ids=tokens(2, 1), past_key_values=cache).logits
    assert after.shape == (2, 1, 50)
    with (
        ropewalk.pinned(model, 20),
        pytest.raises(ModelError, match="cache"),
    ):
        model(input_ids=tokens(2, 1), past_key_values=cache)


@torch.no_grad()
def test_caches_of_unknown_origin_are_refused(model, fresh):
    plain = fresh.twin(input_ids=tokens(1, 8)).past_key_values
    with pytest.raises(ModelError, match="cache"):
        model(input_ids=tokens(1, 1), past_key_values=plain)
    mixed = model(**padded([tokens(1, 10), tokens(1, 20)])).past_key_values
    mixed.reorder_cache(torch.tensor([1, 0]))
    with pytest.raises(ModelError, match="moved"):
        model(input_ids=tokens(2, 1), past_key_values=mixed)
    alike = model(input_ids=tokens(2, 20)).past_key_values
    alike.batch_select_indices(torch.tensor([1]))
    model(input_ids=tokens(1, 1), past_key_values=copy.deepcopy(alike))


@torch.no_grad()
def test_each_layer_can_have_a_vector_of_its_own(model):
    entries = factor_set(model)
    short, _, long = entries.entries
    rows = tuple((1.0 + layer,) * 8 for layer in range(4))
    entries = ropewalk.FactorSet.of([short, long.replace(rescale_factors=rows)])
    fresh = Fresh(model, entries)
    ropewalk.apply(model, entries)
    prompts = [tokens(1, 10), tokens(1, 20)]
    logits = model(**padded(prompts)).logits
    for row, prompt in enumerate(prompts):
        length = prompt.shape[1]
        assert difference(fresh.logits(prompt, length), logits[row, -length:]) < 1e-5


def test_taken_out_it_leaves_the_same_bits_and_nothing_behind(model):
    ids, before = tokens(2, 30), state(model)
    logits = model(input_ids=ids).logits
    entries = factor_set(model)
    assert ropewalk.apply(model, entries) is model
    assert model.config.max_position_embeddings == LONGEST
    ropewalk.apply(model, entries)
    Model.wrap(model).uninstall()
    assert state(model) == before
    assert torch.equal(model(input_ids=ids).logits, logits)


@torch.no_grad()
def test_other_factors_can_stand_in_for_a_while(model, fresh):
    ids, standing = tokens(1, 20), Model.wrap(model).installed
    followed = model(input_ids=ids).logits
    with Model.wrap(model).using(fresh.entries.longest):
        assert difference(fresh.logits(ids, LONGEST), model(input_ids=ids).logits[0]) < 1e-5
    assert Model.wrap(model).installed is standing
    assert torch.equal(model(input_ids=ids).logits, followed)
    elsewhere = dataclasses.replace(fresh.entries.geometry, rope_theta=99.0)
    with pytest.raises(FactorsError, match="rope_theta"):
        ropewalk.apply(model, ropewalk.scheme_factors("pi", elsewhere, LONGEST))
    assert Model.wrap(model).installed is standing


@torch.no_grad()
def test_a_copy_is_its_own_and_follows_dtype(model, fresh):
    twin = copy.deepcopy(model)
    Model.wrap(model).uninstall()
    ids = tokens(1, 30)
    assert difference(fresh.logits(ids, 30), twin(input_ids=ids).logits[0]) < 1e-5
    assert difference(fresh.logits(ids, 30), twin.double()(input_ids=ids).logits[0].float()) < 1e-5
    generated = twin.generate(ids, max_new_tokens=2, do_sample=False)
    assert generated.shape == (1, 32)
    assert twin.bfloat16()(input_ids=ids).logits.dtype == torch.bfloat16


def test_gradients_flow_after_inference(model, fresh):
    ids = tokens(2, 20)
    with torch.inference_mode():
        measured = model(input_ids=ids).logits.clone()
    output = model(input_ids=ids, labels=ids)
    output.loss.backward()
    assert torch.equal(output.logits, measured)
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def test_what_has_no_factor_set_can_not_be_pinned():
    with pytest.raises(ModelError, match="factor set"), ropewalk.pinned(build(), 20):
        pass
