"""A Llama checkpoint as the content of a GGUF file in float32, so that `verify` can compare without rounding.

For larger models, convert and quantise with llama.cpp's own tools, then add factors to that file.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import ExportError
from ropewalk.export.gguf.checkpoint_tensors import pairs_side_by_side, read_tensor, tensor_shape
from ropewalk.export.gguf.file import GgufContent, StoredTensor, Value
from ropewalk.export.gguf.tokenizer import tokenizer_metadata
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.model_files import ADAPTER_CONFIG, describe_model, read_config
from ropewalk.models.transformers4_config import CONFIG
from ropewalk.models.weight_files import require_plain_weights, stored_tensors, weight_files

ARCHITECTURE = "llama"
# The values that llama.cpp's Llama assumes.
ASSUMED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
CONVERT_INSTEAD = "convert it with llama.cpp's converter, and name that file with --gguf"


def read_llama_checkpoint(folder: Path) -> GgufContent:
    """The content of a GGUF file of this checkpoint, without its scaling, which the factors replace.

    All values are float32; every float type of a checkpoint fits into it.

    Raises:
        ExportError: not a Llama; a Llama that differs from llama.cpp's; weights that are missing or have
            other shapes than the configuration states; or a tokenizer that can't be written.
        ModelError: the checkpoint's positions can't be described, or its weights are quantised.
    """
    config = _read_config(folder)
    geometry = describe_model(folder).geometry
    require_plain_weights(weight_files(folder, str(folder)), str(folder), config)
    tensors = _tensors(folder, config, geometry)  # first, because this checks the configuration's sizes
    return GgufContent(
        name=str(folder),
        architecture=ARCHITECTURE,
        metadata={**_model_metadata(folder, config, geometry), **tokenizer_metadata(folder, config)},
        tensors=tensors,
    )


def _read_config(folder: Path) -> Any:
    """transformers' configuration, with its defaults."""
    if not (folder / CONFIG).is_file() and not (folder / ADAPTER_CONFIG).is_file():
        raise ExportError(
            f"{folder} has no {CONFIG}: name a checkpoint's folder, or a GGUF file of the same weights."
        )
    config = read_config(folder)
    if config.model_type != ARCHITECTURE:
        raise ExportError(
            f"{folder} is a {config.model_type} model, but Ropewalk converts only Llama: {CONVERT_INSTEAD}."
        )
    for key, value in ASSUMED.items():
        found = getattr(config, key, value)
        if found != value:
            raise ExportError(
                f"{folder} has {key} {found!r:.40}, but Ropewalk converts only Llama with {value!r}: "
                f"{CONVERT_INSTEAD}."
            )
    return config


def _model_metadata(folder: Path, config: Any, geometry: RopeGeometry) -> dict[str, Value]:
    keys = {
        "block_count": Value.uint32(geometry.num_layers),
        "context_length": Value.uint32(geometry.original_length),
        "embedding_length": Value.uint32(config.hidden_size),
        "feed_forward_length": Value.uint32(config.intermediate_size),
        "attention.head_count": Value.uint32(config.num_attention_heads),
        "attention.head_count_kv": Value.uint32(config.num_key_value_heads),
        "attention.key_length": Value.uint32(geometry.head_dim),
        "attention.value_length": Value.uint32(geometry.head_dim),
        "attention.layer_norm_rms_epsilon": Value.float32(config.rms_norm_eps),
        "rope.freq_base": Value.float32(geometry.rope_theta),
        "rope.dimension_count": Value.uint32(geometry.rotary_dim),
        "vocab_size": Value.uint32(config.vocab_size),
    }
    name = (
        folder.resolve().name.encode("utf-8", errors="replace").decode()
    )  # a folder's name may be any bytes
    return {
        "general.architecture": Value.string(ARCHITECTURE),
        "general.type": Value.string("model"),
        "general.name": Value.string(name),
        "general.file_type": Value.uint32(gguf.LlamaFileType.ALL_F32),
        **{f"{ARCHITECTURE}.{key}": value for key, value in keys.items()},
    }


def _tensors(folder: Path, config: Any, geometry: RopeGeometry) -> tuple[StoredTensor, ...]:
    files = stored_tensors(folder, str(folder))
    num_layers = min(geometry.num_layers, len(files))  # a configuration may state any number
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, num_layers)
    shapes = _shapes(num_layers, config, geometry.head_dim)
    found = {}
    for name, file in files.items():
        stored_name = names.get_name(name, (".weight",))
        if stored_name in shapes:
            _require_shape(name, tensor_shape(file, name), shapes[stored_name], folder)
            found[stored_name] = _tensor(stored_name, name, file, config)
    missing = [name for name in shapes if name not in found]
    if missing:
        raise ExportError(
            f"{folder} lacks {len(missing)} of its weights ({missing[0]} ...): download the checkpoint again."
        )
    return tuple(found[name] for name in shapes)


def _shapes(num_layers: int, config: Any, head_dim: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a Llama of these sizes, in a GGUF file's order."""
    hidden, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    layer = {
        "attn_norm": (hidden,),
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    return {
        "token_embd.weight": (vocabulary, hidden),
        **{f"blk.{i}.{name}.weight": shape for i in range(num_layers) for name, shape in layer.items()},
        "output_norm.weight": (hidden,),
        **({} if config.tie_word_embeddings else {"output.weight": (vocabulary, hidden)}),
    }


def _require_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...], folder: Path) -> None:
    if found != expected:
        raise ExportError(
            f"{folder} has {name} in the shape {found}, but its {CONFIG} states {expected}: copy the "
            f"checkpoint again, weights and configuration."
        )


def _tensor(stored_name: str, name: str, file: Path, config: Any) -> StoredTensor:
    num_heads = {
        "attn_q": config.num_attention_heads,
        "attn_k": config.num_key_value_heads,
    }.get(stored_name.split(".")[-2])

    def read() -> NDArray[np.float32]:
        values = read_tensor(file, name)
        return values if num_heads is None else pairs_side_by_side(values, num_heads)

    return StoredTensor.float32(stored_name, tensor_shape(file, name), read)
