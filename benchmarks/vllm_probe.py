"""Ask vLLM's own, unchanged files what its LongRoPE rotary does with checkpoints; no GPU, no weights.

    PYTHONPATH=VLLM_SOURCE:METADATA:src python benchmarks/vllm_probe.py REQUESTS.json ANSWER

Run with the Python of an environment that has what vLLM imports (docs/vllm.md); METADATA is a folder with a
`vllm-VERSION.dist-info`, and Ropewalk's with its entry point. Everything from `config.json` to the turned
query is vLLM's code: `load_general_plugins` finds the plugin, `get_config` reads the configuration,
`_get_and_verify_max_len` chooses `max_model_len`, Llama's `_init_rotary_emb` builds the rotary, and its
`forward` turns a query. Only the current configuration, of which a few values are read, is a stand-in.

A request: `name`, `folder` (of a checkpoint), `max_model_len` (or null), `positions`, `dtype`, `has_plugin`.
ANSWER.json: versions, and for each request `max_model_len`, the attention factors that vLLM holds, messages,
or the `error` that it would stop with. ANSWER.safetensors: `NAME.cos` and `NAME.sin`, positions by pairs, as
the forward used them. Imports nothing of Ropewalk.
"""

import contextlib
import inspect
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
import vllm
from safetensors.torch import save_file
from vllm.config import vllm as config_module
from vllm.config.model import _get_and_verify_max_len
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.models.llama import LlamaAttention
from vllm.plugins import load_general_plugins
from vllm.transformers_utils.config import get_config, get_hf_text_config


def main(requests_path: str, answer_path: str) -> None:
    requests = json.loads(Path(requests_path).read_text(encoding="utf-8"))
    messages = collect_messages()
    tensors: dict[str, torch.Tensor] = {}
    answers: dict[str, Any] = {}
    for request in sorted(requests, key=lambda request: request["has_plugin"]):
        if request["has_plugin"]:
            load_general_plugins()  # once in a process, by its own rule
        try:
            answers[request["name"]], cos, sin = ask(request)
            tensors |= {f"{request['name']}.cos": cos, f"{request['name']}.sin": sin}
        except ValueError as error:  # vLLM would stop
            answers[request["name"]] = {"error": str(error)}
        answers[request["name"]]["messages"] = messages.copy()
        messages.clear()
    versions = {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    Path(f"{answer_path}.json").write_text(
        json.dumps({"versions": versions, "answers": answers}), encoding="utf-8"
    )
    save_file(tensors, f"{answer_path}.safetensors")


def ask(request: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    config = get_hf_text_config(get_config(request["folder"], trust_remote_code=False))
    max_model_len = verified_length(config, request["max_model_len"])
    model_config = SimpleNamespace(model=request["folder"], revision=None, max_model_len=max_model_len)
    began = time.perf_counter()
    with current_config(SimpleNamespace(model_config=model_config, speculative_config=None)):
        rotary = build_rotary(config, getattr(torch, request["dtype"]))
    answer = {
        "seconds": time.perf_counter() - began,
        "max_model_len": max_model_len,
        "use_long_rope": getattr(rotary, "use_long_rope", None),
        "short_mscale": rotary.short_mscale,
        "long_mscale": rotary.long_mscale,
        "table_shape": list(rotary.long_short_cos_sin_cache.shape),
        "is_patched": hasattr(type(rotary)._compute_cos_sin_cache, "__wrapped__"),
    }
    return answer, *turn(rotary, torch.tensor(request["positions"]))


def verified_length(config: Any, asked: int | None) -> int:
    """vLLM's rule for `max_model_len`, whose parameters differ from version to version."""
    known = {
        "hf_config": config,
        "tokenizer_config": None,
        "max_model_len": asked,
        "disable_sliding_window": False,
        "sliding_window": None,
        "sliding_window_len": None,
        "spec_target_max_model_len": None,
        "encoder_config": None,
        "model_arch_config": SimpleNamespace(
            derived_max_model_len_and_key=(
                float(config.max_position_embeddings),
                "max_position_embeddings",
            )
        ),
    }
    parameters = inspect.signature(_get_and_verify_max_len).parameters
    return int(_get_and_verify_max_len(**{name: known[name] for name in parameters}))


@contextlib.contextmanager
def current_config(config: Any) -> Iterator[None]:
    """vLLM's current configuration, of which the rotary reads a few values, without building all of it."""
    before = config_module._current_vllm_config
    config_module._current_vllm_config = config
    try:
        yield
    finally:
        config_module._current_vllm_config = before


def build_rotary(config: Any, dtype: torch.dtype) -> Any:
    """What a layer of Llama's holds, by its own method."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layer = SimpleNamespace(
        head_dim=head_dim,
        max_position_embeddings=config.max_position_embeddings,
        partial_rotary_factor=getattr(config, "partial_rotary_factor", None) or 1.0,
        rope_theta=getattr(config, "rope_theta", None),
    )
    arguments: dict[str, Any] = {"quant_config": None}
    if "rope_scaling" in inspect.signature(LlamaAttention._init_rotary_emb).parameters:  # before 0.12
        scaling = dict(config.rope_scaling)
        scaling["original_max_position_embeddings"] = config.original_max_position_embeddings
        arguments["rope_scaling"] = scaling
    rotary_embedding._ROPE_DICT.clear()  # vLLM keeps a rotary for as long as the process lives
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        LlamaAttention._init_rotary_emb(layer, config, **arguments)
    finally:
        torch.set_default_dtype(before)
    return layer.rotary_emb


def turn(rotary: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin as the forward uses them: a query of (1, 0) in every pair turns into (cos, sin)."""
    num_pairs = rotary.rotary_dim // 2
    query = torch.zeros(len(positions), rotary.head_size, dtype=rotary.long_short_cos_sin_cache.dtype)
    query[:, :num_pairs] = 1
    turned, _ = rotary(positions, query, query.clone())
    return turned[:, :num_pairs].contiguous(), turned[:, num_pairs : 2 * num_pairs].contiguous()


def collect_messages() -> list[str]:
    """What the plugin says, as vLLM would print it."""
    messages: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(f"{record.levelname} {record.getMessage()}")

    plugin = logging.getLogger("vllm.ropewalk")
    plugin.setLevel(logging.INFO)  # what vLLM sets when it starts
    plugin.addHandler(Collecting())
    return messages


if __name__ == "__main__":
    main(*sys.argv[1:])
