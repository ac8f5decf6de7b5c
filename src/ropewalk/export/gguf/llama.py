"""A Llama checkpoint as a whole GGUF file in float32, so that an engine can be checked without rounding.

Larger models are better converted and quantised by llama.cpp's own tools, and then given their factors.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import ExportError
from ropewalk.export.gguf.file import GgufContent, StoredTensor, Value, number, text, whole
from ropewalk.export.gguf.tokenizer import tokenizer_metadata
from ropewalk.export.gguf.weights import read_tensor, side_by_side, tensor_shape
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.model_files import describe_model, read_config
from ropewalk.models.weight_files import require_plain_weights, stored_tensors, weight_files

ARCHITECTURE = "llama"
# What the runtime's Llama is, where a configuration may say otherwise.
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def read_llama_checkpoint(folder: Path) -> GgufContent:
    """What a GGUF file of this checkpoint holds, its own scaling left out: factors replace it.

    Values are in float32, whichever float the checkpoint has: each fits.

    Raises:
        ExportError: no Llama, one that llama.cpp's differs from, weights that are missing or of other shapes
            than the configuration says, or a tokenizer that can't be written.
        ModelError: not a checkpoint whose positions can be described, or quantised weights.
    """
    config = _read_config(folder)
    geometry = describe_model(folder).geometry
    require_plain_weights(weight_files(folder, str(folder)), str(folder), config)
    tensors = _tensors(folder, config, geometry)  # first: they bear out the sizes in the configuration
    return GgufContent(
        name=str(folder),
        architecture=ARCHITECTURE,
        metadata={**_model_metadata(folder, config, geometry), **tokenizer_metadata(folder, config)},
        tensors=tensors,
    )


def _read_config(folder: Path) -> Any:
    """transformers' configuration, with its defaults."""
    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise ExportError(
            f"{folder} holds no config.json: name a checkpoint's folder, or a GGUF file of the same weights."
        )
    config = read_config(folder)
    if config.model_type != ARCHITECTURE:
        raise ExportError(
            f"{folder} is a {config.model_type} model, but only Llama is converted here: convert it with "
            f"llama.cpp's converter, and name that file with --gguf."
        )
    for key, value in FIXED.items():
        found = getattr(config, key, value)
        if found != value:
            raise ExportError(
                f"{folder} has {key} {found!r:.40}, but is converted here only with {value!r}: convert it "
                f"with llama.cpp's converter, and name that file with --gguf."
            )
    return config


def _model_metadata(folder: Path, config: Any, geometry: RopeGeometry) -> dict[str, Value]:
    keys = {
        "block_count": whole(geometry.num_layers),
        "context_length": whole(geometry.original_length),
        "embedding_length": whole(config.hidden_size),
        "feed_forward_length": whole(config.intermediate_size),
        "attention.head_count": whole(config.num_attention_heads),
        "attention.head_count_kv": whole(config.num_key_value_heads),
        "attention.key_length": whole(geometry.head_dim),
        "attention.value_length": whole(geometry.head_dim),
        "attention.layer_norm_rms_epsilon": number(config.rms_norm_eps),
        "rope.freq_base": number(geometry.rope_theta),
        "rope.dimension_count": whole(geometry.rotary_dim),
        "vocab_size": whole(config.vocab_size),
    }
    name = folder.resolve().name.encode("utf-8", errors="replace").decode()  # a folder's may be any bytes
    return {
        "general.architecture": text(ARCHITECTURE),
        "general.type": text("model"),
        "general.name": text(name),
        "general.file_type": whole(gguf.LlamaFileType.ALL_F32),
        **{f"{ARCHITECTURE}.{key}": value for key, value in keys.items()},
    }


def _tensors(folder: Path, config: Any, geometry: RopeGeometry) -> tuple[StoredTensor, ...]:
    files = stored_tensors(folder, str(folder))
    num_layers = min(geometry.num_layers, len(files))  # a configuration may state any number
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, num_layers)
    wanted = _shapes(num_layers, config, geometry.head_dim)
    found = {}
    for name, file in files.items():
        stored = names.get_name(name, (".weight",))
        if stored in wanted:
            _require_shape(name, tensor_shape(file, name), wanted[stored], folder)
            found[stored] = _tensor(stored, name, file, config)
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ExportError(
            f"{folder} lacks {len(missing)} of its weights ({missing[0]} ...): its files are incomplete."
        )
    return tuple(found[name] for name in wanted)


def _shapes(num_layers: int, config: Any, head_dim: int) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a Llama of these sizes, in a GGUF's order."""
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


def _require_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...], folder: Path) -> None:
    if found != wanted:
        raise ExportError(
            f"{folder} stores {name} in the shape {found}, but by its config.json it is {wanted}: copy the "
            f"model again, weights and configuration."
        )


def _tensor(stored: str, name: str, file: Path, config: Any) -> StoredTensor:
    num_heads = {
        "attn_q": config.num_attention_heads,
        "attn_k": config.num_key_value_heads,
    }.get(stored.split(".")[-2])

    def load() -> NDArray[np.float32]:
        values = read_tensor(file, name)
        return values if num_heads is None else side_by_side(values, num_heads)

    return _float32(stored, tensor_shape(file, name), load)


def _float32(name: str, shape: tuple[int, ...], load: Callable[[], NDArray[np.float32]]) -> StoredTensor:
    kind = gguf.GGMLQuantizationType.F32
    return StoredTensor(name=name, kind=kind, shape=shape, dtype=np.dtype(np.float32), load=load)
