"""Probe of llama.cpp: `probes.py` runs it with a Python that has llama-cpp-python and safetensors.

Each sequence gets its own context, of `context` tokens or, without `context`, of the sequence's length.
llama.cpp chooses the factors by this context, rounded up to a multiple of 256. With the dtype float32, keys
and values are float32 and attention is not fused, so that only the weights are rounded. Logits are copied
batch by batch, so that those of a long sequence need not fit in memory.
"""

import ctypes
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING_CODE = 3
BATCH_TOKENS = 512
FLOAT32_CACHE = 0  # ggml's number of the type
UNFUSED_ATTENTION = 0

# Python searches a script's folder first, and the `llama_cpp.py` in this folder is not the package.
sys.path = [entry for entry in sys.path if entry != str(Path(__file__).parent)]
try:
    import llama_cpp
    from safetensors.numpy import save_file
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(MISSING_CODE)


def main() -> None:
    """Run the command line that `probes.py` describes."""
    if sys.argv[1] == "--version":
        print(importlib.metadata.version("llama-cpp-python"))
        return
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(sys.argv[2])
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        request["path"].encode(), llama_cpp.llama_model_default_params()
    )
    if not model:
        sys.exit(f"llama.cpp could not load {request['path']}.")
    read = [read_sequence(model, sequence, request) for sequence in request["sequences"]]
    output = {
        "engine": "llama.cpp",
        "version": importlib.metadata.version("llama-cpp-python"),
        "attention_factors": [None] * len(read),  # llama.cpp shows neither these nor its frequencies
    }
    (folder / "output.json").write_text(json.dumps(output), encoding="utf-8")
    tensors: dict[str, NDArray[Any]] = {}
    for index, (last, nats) in enumerate(read):
        tensors |= {f"logits.{index}": last, f"nats.{index}": nats}
    save_file(tensors, folder / "output.safetensors")


def read_sequence(
    model: Any, sequence: list[int], request: dict[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Returns the logits of the last positions, and the NLL of each predicted token in nats."""
    context = make_context(model, request["context"] or len(sequence), request["dtype"])
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    last, nats = [], []
    for first in range(0, len(sequence), BATCH_TOKENS):
        part = sequence[first : first + BATCH_TOKENS]
        logits = read_batch(context, part, first, vocabulary)
        nats.append(nats_of(logits, sequence[first + 1 : first + len(part) + 1]))
        kept = max(0, first + len(part) - max(first, len(sequence) - request["num_last"]))
        last.append(logits[len(part) - kept :].copy())
    llama_cpp.llama_free(context)
    return np.concatenate(last), np.concatenate(nats)


def make_context(model: Any, num_tokens: int, dtype: str) -> Any:
    """A context of `num_tokens`, by which llama.cpp chooses its factors."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = num_tokens
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_threads = params.n_threads_batch = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    if dtype == "float32":
        params.type_k = params.type_v = FLOAT32_CACHE
        params.flash_attn_type = UNFUSED_ATTENTION
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        sys.exit(f"llama.cpp could not make a context of {num_tokens} tokens.")
    return context


def read_batch(context: Any, tokens: list[int], first: int, vocabulary: int) -> NDArray[np.float32]:
    """The logits of a batch that begins at position `first`, shape (tokens, vocabulary)."""
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for index, token in enumerate(tokens):
        batch.token[index] = token
        batch.pos[index] = first + index
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = 0
        batch.logits[index] = True
    code = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if code:
        sys.exit(f"llama.cpp could not read {len(tokens)} tokens at position {first} (code {code}).")
    pointer = ctypes.cast(llama_cpp.llama_get_logits(context), ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, shape=(len(tokens), vocabulary))


def nats_of(logits: NDArray[np.float32], following: list[int]) -> NDArray[np.float64]:
    """The NLL of the token that follows each position, in nats; the sequence's last position has none."""
    rows = logits[: len(following)].astype(np.float64)
    highest = rows.max(axis=1)
    log_sums = highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1))
    nats: NDArray[np.float64] = log_sums - rows[np.arange(len(following)), following]
    return nats


if __name__ == "__main__":
    main()
