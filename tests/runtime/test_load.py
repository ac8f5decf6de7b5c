"""A checkpoint and its factor set, loaded and saved together."""

import json
import shutil

import pytest
import torch
from small_models import LONGEST, factor_set, tokens
from transformers import AutoModelForCausalLM

import ropewalk
from ropewalk.errors import FactorsError, ModelError
from ropewalk.models.fingerprint import OtherWeightsWarning
from ropewalk.recipe.run_folder import PipelineFolder


@pytest.fixture
def entries(tiny_model):
    return ropewalk.FactorSet.of(
        entry.replace(
            geometry=entry.geometry.__class__(**{**entry.geometry.as_dict(), "original_length": 64})
        )
        for entry in factor_set(tiny_model).entries
    )


@pytest.fixture
def checkpoint(tiny_model_folder, entries):
    """A folder as an export leaves it."""
    entries.save(tiny_model_folder / "factors.json")
    return tiny_model_folder


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=ids).logits


def test_a_folder_with_its_set_follows_it(checkpoint, tiny_model, entries):
    model = ropewalk.load(checkpoint)
    assert isinstance(model, type(tiny_model))
    ids = tokens(1, 40)
    ropewalk.apply(tiny_model, entries)
    assert torch.equal(logits(model, ids), logits(tiny_model, ids))
    assert model.generate(ids, do_sample=False, max_new_tokens=3).shape == (1, 43)
    assert model.dtype == torch.float32
    assert ropewalk.load(checkpoint, dtype="bfloat16").dtype == torch.bfloat16


def test_what_extend_leaves_is_such_a_folder(tmp_path, tiny_model_folder, entries):
    with PipelineFolder.open(tmp_path / "run", {}) as folder:
        folder.write_result(tiny_model_folder, entries.to_json())
        model = ropewalk.load(folder.result_path)
        folder.write_result(None, entries.to_json())
        with pytest.raises(ModelError, match="checkpoint"):
            ropewalk.load(folder.result_path)
        named = ropewalk.load(tiny_model_folder, factors=folder.result_factors_path)
    assert torch.equal(logits(model, tokens(1, 40)), logits(named, tokens(1, 40)))


def test_a_save_keeps_the_set_and_the_configuration_as_it_came(checkpoint, tmp_path):
    model = ropewalk.load(checkpoint)
    assert model.config.max_position_embeddings == LONGEST
    model.save_pretrained(tmp_path / "saved")
    assert model.config.max_position_embeddings == LONGEST
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (checkpoint, tmp_path / "saved")
    )
    assert after == {**before, "rope_theta": 100.0}, "and what version 4 of transformers reads"
    again = ropewalk.load_model(checkpoint)  # the saved folder has no tokenizer
    shutil.copy(checkpoint / "tokenizer.json", tmp_path / "saved")
    shutil.copy(checkpoint / "tokenizer_config.json", tmp_path / "saved")
    assert torch.equal(logits(ropewalk.load(tmp_path / "saved"), tokens(1, 40)), logits(model, tokens(1, 40)))
    assert torch.equal(
        logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), tokens(1, 40)),
        logits(again.model, tokens(1, 40)),
    )


def test_the_set_beside_a_checkpoint_knows_its_window(checkpoint):
    """Somebody wrote the extended window into the configuration."""
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 4096}))
    ropewalk.load(checkpoint)
    with pytest.raises(FactorsError, match="original_length"):
        ropewalk.load(checkpoint, factors=checkpoint / "factors.json")


def test_wrong_input_is_one_line(checkpoint, entries, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (checkpoint / "factors.json").unlink()
    for path, error, message in (
        (checkpoint, FactorsError, "factors.json"),
        ("scale-model", FactorsError, "factors.json"),
        (tmp_path / "nothing", FactorsError, "factors.json"),
        ("nobody/nothing", FactorsError, "factors.json"),
    ):
        with pytest.raises(error, match=message) as caught:
            ropewalk.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="nothing"):
        ropewalk.load(tmp_path / "nothing" / "deep" / "er", factors=entries)
    with pytest.raises(FactorsError, match="scale-model"):
        ropewalk.load("scale-model", factors=entries)
    (checkpoint / "factors.json").write_text("{")
    with pytest.raises(FactorsError, match="JSON"):
        ropewalk.load(checkpoint)


def test_factors_of_other_weights_are_named(checkpoint, entries):
    made_on = entries.longest.provenance.__class__(model="another", weights_sha256="0" * 64)
    other = entries.longest.replace(provenance=made_on)
    with pytest.warns(OtherWeightsWarning, match="another"):
        ropewalk.load(checkpoint, factors=other)
