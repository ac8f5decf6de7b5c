"""The tiled loss has the value and gradients of plain transformers, for families that change logits too."""

from itertools import islice

import pytest
import torch
from finetune_stages import LENGTH, make_documents
from tiny import TINY_SHAPE
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.packing import Packing, collate
from ropewalk.finetune.loss import tiled_loss
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.rope.schemes import scheme_factors


def make_batch(length=LENGTH, num_segments=2):
    segments = Packing(bos=0, eos=1, length=length).pack(make_documents(vocabulary=200))
    return collate(list(islice(segments, num_segments)))


def gradients(model):
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def largest_difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)


def plain_loss(model, batch):
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits.float()
    return cross_entropy(logits.flatten(0, 1), batch["shift_labels"].flatten(), ignore_index=-100)


FAMILIES = {
    "llama": {},
    "granite": {"logits_scaling": 3.0},
    "gemma2": {"final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "cohere": {"logit_scale": 0.3},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tile_tokens", [7, None])
def test_tiles_change_nothing(family, tile_tokens):
    config = AutoConfig.for_model(
        family,
        vocab_size=256,
        pad_token_id=0,
        **TINY_SHAPE,
        **FAMILIES[family],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    batch = make_batch(length=48)
    theirs = plain_loss(model, batch)
    theirs.backward()
    expected = gradients(model)
    with tiled_loss(model, tile_tokens=tile_tokens):
        ours = model(**batch)["loss"]
        ours.backward()
        assert model(input_ids=batch["input_ids"]).logits.shape == (2, 48, 256)
    assert "forward" not in vars(model)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert largest_difference(gradients(model), expected) < 1e-5


def test_weights_multiply_nats(tiny_model):
    batch = make_batch()
    weights = torch.rand(batch["shift_labels"].shape)
    logits = tiny_model(input_ids=batch["input_ids"]).logits
    each = cross_entropy(
        logits.flatten(0, 1), batch["shift_labels"].flatten(), ignore_index=-100, reduction="none"
    )
    expected = (each * weights.flatten()).sum().item() / 50
    with tiled_loss(tiny_model, tile_tokens=40):
        loss = tiny_model(**batch, loss_weights=weights, num_items_in_batch=50)["loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_logits_of_a_whole_segment_are_never_computed(tiny_model):
    largest = []
    head = tiny_model.lm_head.register_forward_hook(lambda m, i, output: largest.append(output.numel()))
    with tiled_loss(tiny_model, tile_tokens=40):
        largest.clear()
        tiny_model(**make_batch())["loss"].backward()
    head.remove()
    assert len(largest) == 2 * 5  # 192 tokens in tiles of 40, forwards and backwards
    assert max(largest) == 40 * tiny_model.config.vocab_size


@pytest.mark.parametrize("per_layer", [False, True])
def test_gradients_are_those_of_transformers_own_longrope(tiny_model, per_layer):
    """Factors in a configuration and installed factors give the same gradients."""
    geometry = describe(tiny_model.config).geometry
    factors = scheme_factors("yarn", geometry, 256)
    parameters = {
        "rope_type": "longrope",
        "rope_theta": geometry.rope_theta,
        "long_factor": list(factors.rescale_factors[0]),
        "short_factor": list(factors.rescale_factors[0]),
        "attention_factor": factors.attention_factor,
        "factor": factors.extension_ratio,
        "original_max_position_embeddings": geometry.original_length,
    }
    config = tiny_model.config.__class__(
        **{**tiny_model.config.to_dict(), "rope_parameters": parameters, "max_position_embeddings": 256}
    )
    config._attn_implementation = "sdpa"
    native = LlamaForCausalLM(config)
    native.load_state_dict(tiny_model.state_dict())
    batch = make_batch(length=200)
    theirs = plain_loss(native, batch)
    theirs.backward()
    if per_layer:
        factors = RescaleFactors(
            geometry=geometry,
            target_length=256,
            rescale_factors=factors.rescale_factors * 2,
            attention_factor=factors.attention_factor,
        )
    with Model.wrap(tiny_model).using(factors), tiled_loss(tiny_model):
        ours = tiny_model(**batch)["loss"]
        ours.backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    expected = gradients(native)
    assert largest_difference(gradients(tiny_model), expected) < 1e-4
    plain_loss(tiny_model, batch).backward()
    assert largest_difference(gradients(tiny_model), expected) > 0.1  # the factors make a difference
