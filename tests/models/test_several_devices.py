"""A model whose layers are on several devices: how it is loaded, and that accelerate's hooks change no bit.

Its hooks move what a layer takes to its device. They are tested on the CPU; nothing was run on several GPUs.
"""

import pytest
import torch
from accelerate import dispatch_model
from transformers import AutoModelForCausalLM

from ropewalk.errors import ModelError
from ropewalk.evaluate.gradient import reading_gradient
from ropewalk.evaluate.nll import score_reading
from ropewalk.models import model as models
from ropewalk.models.model import ALL_GPUS, load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.readings import Reading


@pytest.fixture
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder)


@pytest.fixture
def hooked(loaded, tiny_model_folder, monkeypatch):
    """The model with hooks on each layer, and the device maps that `from_pretrained` got."""
    device_maps = []
    load = AutoModelForCausalLM.from_pretrained

    def load_with_hooks(path, *, device_map, **more):
        device_maps.append(device_map)
        model, report = load(path, **more)
        layers = [f"model.layers.{index}" for index in range(len(model.model.layers))]
        names = [*layers, "model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
        return dispatch_model(model, dict.fromkeys(names, "cpu"), force_hooks=True), report

    monkeypatch.setattr(models, "_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load_with_hooks)
    return load_model(tiny_model_folder, device=ALL_GPUS), device_maps


def test_layers_are_divided_by_accelerate(hooked):
    model, device_maps = hooked
    assert device_maps == ["balanced"]
    assert model.load_options["device"] == model.where["device"] == ALL_GPUS
    assert all(hasattr(layer, "_hf_hook") for layer in model.model.model.layers)


def test_values_and_gradients_are_the_same(loaded, hooked):
    model, _ = hooked
    factors = scheme_factors("yarn", loaded.geometry, 4 * loaded.geometry.original_length)
    reading = Reading(ids=torch.arange(1, 97), scored={"text": torch.arange(20, 96)})
    assert model.head.is_plain == loaded.head.is_plain
    with loaded.using(factors), model.using(factors):
        assert score_reading(model.model, reading) == score_reading(loaded.model, reading)
    expected, found = (reading_gradient(one, reading, factors, {"text": 0.5}) for one in (loaded, model))
    assert found.sums == expected.sums
    assert (found.by_log_factor == expected.by_log_factor).all()
    assert found.by_log_attention == expected.by_log_attention


def test_without_gpus_they_are_refused(tiny_model_folder):
    if torch.cuda.is_available():
        pytest.skip("this machine has them")
    with pytest.raises(ModelError, match="device"):
        load_model(tiny_model_folder, device=ALL_GPUS)
