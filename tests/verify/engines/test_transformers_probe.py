"""The probe of transformers loads a folder that somebody else wrote, and none of its choices of code."""

import json
from pathlib import Path

import pytest
import torch
from transformers import modeling_utils
from transformers.integrations import hub_kernels

from ropewalk.verify.engines.transformers_probe import load_checkpoint


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
