"""The probe of transformers loads a folder that somebody else wrote, and none of its choices of code."""

import json
from pathlib import Path

import pytest
import torch
from transformers import modeling_utils
from transformers.integrations import hub_kernels

from ropewalk.verify.engines.transformers_probe import load_checkpoint, shown_rotation


@pytest.mark.parametrize("key", ["_attn_implementation", "_experts_implementation"])
def test_an_exported_configuration_chooses_no_code(
    tiny_model_folder: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: object, **_: object) -> None:
        raise AssertionError(f"code was fetched: {arguments}")

    for module in (hub_kernels, modeling_utils):
        monkeypatch.setattr(module, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", fetch)
    config = tiny_model_folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), key: "owner/kernel:function"}))
    assert load_checkpoint(str(tiny_model_folder), torch.float32).config._attn_implementation == "sdpa"


def test_pickles_are_not_read(tiny_model_folder: Path) -> None:
    (tiny_model_folder / "model.safetensors").rename(tiny_model_folder / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_checkpoint(str(tiny_model_folder), torch.float32)


class Rotary(torch.nn.Module):
    def __init__(self, **buffers: object) -> None:
        super().__init__()
        vars(self).update(buffers)


def test_the_rotation_shown_is_that_of_the_layers_that_longrope_scales() -> None:
    plain, scaled = torch.tensor([1.0, 0.5]), torch.tensor([1.0, 0.25, 1e-18])
    by_type = Rotary(
        rope_type={"sliding_attention": "default", "full_attention": "longrope"},
        sliding_attention_inv_freq=plain, sliding_attention_attention_scaling=1.0,
        full_attention_inv_freq=scaled, full_attention_attention_scaling=1.25,
    )  # fmt: skip
    by_module = [
        Rotary(rope_type="default", inv_freq=plain, attention_scaling=1.0),
        Rotary(rope_type="longrope", inv_freq=scaled, attention_scaling=1.25),
    ]
    for modules in ([by_type], by_module, by_module[::-1]):
        frequencies, attention_factor = shown_rotation(torch.nn.ModuleList(modules))
        assert frequencies.tolist() == [1.0, 0.25]
        assert attention_factor == 1.25
    assert shown_rotation(torch.nn.Linear(2, 2)) == (None, None)
