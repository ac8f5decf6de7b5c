"""Adapters from others: no pickle, no link, no code, and no download of other adapters."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from ropewalk.errors import RopewalkError
from ropewalk.finetune.adapters import WEIGHTS, add_adapter, load_adapter, remove_adapter, write_adapter
from ropewalk.finetune.settings import LoraSettings

peft = pytest.importorskip("peft")


@pytest.fixture
def folder(tiny_model: LlamaForCausalLM, tmp_path: Path) -> Path:
    """An adapter of the tiny model."""
    path = tmp_path / "adapter"
    adapted = add_adapter(tiny_model, LoraSettings(rank=2), seed=0)
    write_adapter(adapted, path)
    remove_adapter(adapted)
    return path


def settings(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(model: LlamaForCausalLM, folder: Path, noun: str) -> None:
    with pytest.raises(RopewalkError, match=noun) as caught:
        load_adapter(model, folder)
    assert "\n" not in str(caught.value)


def test_a_saved_adapter_is_loaded(tiny_model: LlamaForCausalLM, folder: Path) -> None:
    assert isinstance(load_adapter(tiny_model, folder), peft.PeftModel)


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {}, "megatron_core": "antigravity"},
        {"peft_type": "XLORA", "adapters": {"0": "owner/another"}},
    ],
)
def test_settings_name_no_code(tiny_model: LlamaForCausalLM, folder: Path, changes: dict[str, Any]) -> None:
    settings(folder, **changes)
    refused(tiny_model, folder, "adapter_config.json")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a":' * 9999])
def test_settings_that_are_no_json_object(tiny_model: LlamaForCausalLM, folder: Path, content: str) -> None:
    (folder / "adapter_config.json").write_text(content)
    refused(tiny_model, folder, "adapter_config.json")


def test_a_link_or_a_pickle_is_refused(tiny_model: LlamaForCausalLM, folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).rename(tmp_path / WEIGHTS)
    (folder / WEIGHTS).symlink_to(tmp_path / WEIGHTS)
    refused(tiny_model, folder, "link")
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(b"not read")
    refused(tiny_model, folder, "pickle")
