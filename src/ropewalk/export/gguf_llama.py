"""A Llama checkpoint as a whole GGUF file in float32, so that an engine can be checked without rounding.

Larger models are better converted and quantised by llama.cpp's own tools, and then given their factors.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import ExportError
from ropewalk.export.gguf_file import GgufContent, StoredTensor, Value, number, text, whole
from ropewalk.export.gguf_tokenizer import tokenizer_metadata
from ropewalk.export.gguf_weights import read_tensor, side_by_side, tensor_files, tensor_shape
from ropewalk.models.load import describe_model

ARCHITECTURE = "llama"
# What the runtime's Llama is, where a configuration may say otherwise.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
LAYER_TENSORS = (
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip


def read_llama_checkpoint(folder: Path) -> GgufContent:
    """What a GGUF file of this checkpoint holds, its own scaling left out: factors replace it.

    Values are in float32, whichever float the checkpoint has: each fits.

    Raises:
        ExportError: no Llama, one that llama.cpp's differs from, weights that are missing, or a tokenizer
            that can't be written.
        ModelError: not a checkpoint whose positions can be described.
    """
    config = _read_config(folder)
    return GgufContent(
        name=str(folder),
        architecture=ARCHITECTURE,
        metadata={**_model_metadata(folder, config), **tokenizer_metadata(folder, config)},
        tensors=_tensors(folder, config),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ExportError(
            f"{folder} holds no config.json: name a checkpoint's folder, or a GGUF file of the same weights."
        )
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    kind = config.get("model_type")
    if kind != ARCHITECTURE:
        raise ExportError(
            f"{folder} is a {kind} model, but only Llama is converted here: convert it with llama.cpp's "
            f"converter, and name that file with --gguf."
        )
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise ExportError(
                f"{folder} has {key} {config[key]!r}, but is converted here only with {value!r}: convert it "
                f"with llama.cpp's converter, and name that file with --gguf."
            )
    return config


def _model_metadata(folder: Path, config: dict[str, Any]) -> dict[str, Value]:
    geometry = describe_model(folder).geometry
    num_heads = int(config["num_attention_heads"])
    keys = {
        "block_count": whole(geometry.num_layers),
        "context_length": whole(geometry.original_length),
        "embedding_length": whole(config["hidden_size"]),
        "feed_forward_length": whole(config["intermediate_size"]),
        "attention.head_count": whole(num_heads),
        "attention.head_count_kv": whole(_num_key_value_heads(config)),
        "attention.key_length": whole(geometry.head_dim),
        "attention.value_length": whole(geometry.head_dim),
        "attention.layer_norm_rms_epsilon": number(config["rms_norm_eps"]),
        "rope.freq_base": number(geometry.rope_theta),
        "rope.dimension_count": whole(geometry.rotary_dim),
        "vocab_size": whole(config["vocab_size"]),
    }
    return {
        "general.architecture": text(ARCHITECTURE),
        "general.type": text("model"),
        "general.name": text(folder.resolve().name),
        "general.file_type": whole(gguf.LlamaFileType.ALL_F32),
        **{f"{ARCHITECTURE}.{key}": value for key, value in keys.items()},
    }


def _tensors(folder: Path, config: dict[str, Any]) -> tuple[StoredTensor, ...]:
    num_layers, is_tied = int(config["num_hidden_layers"]), bool(config.get("tie_word_embeddings", False))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, num_layers)
    wanted = _expected(num_layers, is_tied)
    found = {}
    for name, file in tensor_files(folder):
        stored = names.get_name(name, (".weight",))
        if stored in wanted:
            found[stored] = _tensor(stored, name, file, config)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ExportError(
            f"{folder} lacks {len(missing)} of its weights ({missing[0]} ...): its files are incomplete."
        )
    return tuple(found[name] for name in wanted)


def _expected(num_layers: int, is_tied: bool) -> list[str]:
    layers = [f"blk.{layer}.{name}.weight" for layer in range(num_layers) for name in LAYER_TENSORS]
    output = [] if is_tied else ["output.weight"]
    return ["token_embd.weight", *layers, "output_norm.weight", *output]


def _tensor(stored: str, name: str, file: Path, config: dict[str, Any]) -> StoredTensor:
    num_heads = {
        "attn_q": int(config["num_attention_heads"]),
        "attn_k": _num_key_value_heads(config),
    }.get(stored.split(".")[-2])

    def load() -> NDArray[np.float32]:
        values = read_tensor(file, name)
        return values if num_heads is None else side_by_side(values, num_heads)

    return _float32(stored, tensor_shape(file, name), load)


def _float32(name: str, shape: tuple[int, ...], load: Callable[[], NDArray[np.float32]]) -> StoredTensor:
    kind = gguf.GGMLQuantizationType.F32
    return StoredTensor(name=name, kind=kind, shape=shape, dtype=np.dtype(np.float32), load=load)


def _num_key_value_heads(config: dict[str, Any]) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])
