"""A Llama checkpoint as a whole GGUF file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import (
    SET,
    WINDOW,
    edit,
    raw,
    read_by_transformers,
    refused,
)
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ropewalk.export.gguf.compatibility import gguf_geometry
from ropewalk.export.gguf.export import export_gguf, write_base_gguf
from ropewalk.export.gguf.file import read_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.fingerprint import hash_weights
from ropewalk.models.model import load_model
from ropewalk.models.scale_model import SCALE_MODEL
from ropewalk.rope.schemes import scheme_factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_written_whole(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    tiny_model.to(dtype).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    path = export_gguf(tmp_path / "model", SET, tmp_path / "out.gguf").path
    written, ours = read_by_transformers(path), load_model(tmp_path / "model")
    assert hash_weights(written) == ours.weights_sha256
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(written(ids).logits, ours.model(ids).logits)
    said = "def tab(x): return 12 + x  # ça 🎉"
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert tokenizer(said).input_ids == ours.tokenizer(said).input_ids


def test_the_scale_model_is_written_whole(tmp_path: Path) -> None:
    geometry = load_model(SCALE_MODEL).geometry
    export_gguf(SCALE_MODEL, FactorSet.of([scheme_factors("pi", geometry, 2048)]), tmp_path / "out.gguf")
    content = read_gguf(tmp_path / "out.gguf")
    assert gguf_geometry(content) == dataclasses.replace(geometry, original_length=2048)
    assert gguf_geometry(content, 256) == geometry
    assert content.metadata["tokenizer.ggml.pre"].plain == "smollm"  # every digit on its own
    assert content.metadata["tokenizer.ggml.add_bos_token"].plain is True
    assert len(content.metadata["tokenizer.ggml.tokens"].plain) == 2048


def test_a_tuned_checkpoint_loses_its_own_scaling(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The factors replace the scaling in the trainer's configuration."""
    edit(tiny_model_folder / "config.json", rope_parameters={
        "rope_type": "longrope", "rope_theta": 100.0, "factor": 8.0,
        "original_max_position_embeddings": WINDOW,
        "short_factor": [2.0] * 4, "long_factor": [2.0] * 4, "attention_factor": 1.1,
    }, max_position_embeddings=512)  # fmt: skip
    export_gguf(tiny_model_folder, SET, tmp_path / "out.gguf")
    assert read_gguf(tmp_path / "out.gguf").get("rope.scaling.original_context_length") == WINDOW


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "qwen3"}, "qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_hidden_layers": 3}, "lacks 9"),
        ({"vocab_size": 100}, "config.json"),
        ({"hidden_size": 16}, "config.json"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers"),
    ],
)
def test_checkpoints_that_are_not_converted_are_refused(
    tiny_model_folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    edit(tiny_model_folder / "config.json", **change)
    refused(tiny_model_folder, tmp_path / "out.gguf", said)


@pytest.mark.parametrize(
    "key",
    ["num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias",
     "head_dim", "bos_token_id", "eos_token_id", "rope_parameters", "max_position_embeddings"],
)  # fmt: skip
def test_a_default_that_is_left_out_is_transformers_own(
    tiny_tokenizer: Any, tmp_path: Path, key: str
) -> None:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    write_base_gguf(folder, tmp_path / "stated.gguf")
    stated = json.loads((folder / "config.json").read_text())
    del stated[key]
    (folder / "config.json").write_text(json.dumps(stated))
    write_base_gguf(folder, tmp_path / "left_out.gguf")
    assert raw(tmp_path / "left_out.gguf") == raw(tmp_path / "stated.gguf")


@pytest.mark.parametrize(
    ("stated", "suffix", "dtype"),
    [
        ({"quant_method": "gptq", "bits": 4}, ".qweight", torch.int32),
        ({"quant_method": "fp8"}, ".weight", torch.float8_e4m3fn),
        (None, ".weight", torch.float8_e4m3fn),
    ],
)
@pytest.mark.parametrize("with_base", [False, True])
def test_quantised_weights_are_the_reason(
    tiny_model_folder: Path, base: Path, tmp_path: Path, stated: Any, suffix: str, dtype: Any, with_base: bool
) -> None:
    tensors = load_file(tiny_model_folder / "model.safetensors")
    packed = {
        name.replace(".weight", suffix) if "proj" in name else name: t.to(dtype) if "proj" in name else t
        for name, t in tensors.items()
    }
    save_file(packed, tiny_model_folder / "model.safetensors", metadata={"format": "pt"})
    edit(tiny_model_folder / "config.json", quantization_config=stated)
    refused(tiny_model_folder, tmp_path / "out.gguf", "quantised", base=base if with_base else None)


def test_an_adapter_names_its_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tiny_model_folder / "config.json").unlink()
    (tiny_model_folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    refused(tiny_model_folder, tmp_path / "out.gguf", "owner/base")
