"""A hash that tells checkpoints of one geometry apart, of a loaded model or of its files alone."""

import hashlib
import json
import struct
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk.factors import RescaleFactors

SAMPLED_VALUES = 1024
# How safetensors calls what a model's values are stored in; numpy has no bfloat16.
STORED = {
    "F32": ("<f4", torch.float32), "F16": ("<f2", torch.float16),
    "BF16": ("<i2", torch.bfloat16),
}  # fmt: skip


class OtherWeightsWarning(UserWarning):
    """Factors were made on other weights than those they are used with."""


def warn_if_other_weights(
    factors: RescaleFactors, source: str, *, model: str, weights_sha256: str | None
) -> None:
    """Warn, naming both models, where factors were made on other weights of the same geometry.

    Args:
        source: what the factors are called.
        model, weights_sha256: what they are to be used with; None for a hash that is not known.
    """
    made_on = factors.provenance
    if made_on.weights_sha256 is None or weights_sha256 in (None, made_on.weights_sha256):
        return
    theirs = f"{made_on.model or 'an unnamed model'} (weights {made_on.weights_sha256[:12]})"
    warnings.warn(
        f"{source} were made on {theirs}, but are used with {model} (weights {weights_sha256[:12]}) of the "
        f"same geometry: measure them here before you trust them.",
        OtherWeightsWarning,
        stacklevel=3,
    )


def hash_weights(model: torch.nn.Module) -> str:
    """SHA-256 over every parameter's name, shape, and a strided sample of its values in bfloat16.

    A sample, so that a large model costs a moment; bfloat16, so that float32 and bfloat16 loads of one
    checkpoint agree. It tells checkpoints apart; it does not guard against forgery.
    """

    def sample(parameter: Tensor) -> Callable[[], Tensor]:
        return lambda: _sample(parameter.detach().reshape(-1))

    named = model.named_parameters()
    return _digest((name, tuple(one.shape), sample(one)) for name, one in named)


def hash_stored_weights(folder: Path, files: Sequence[Path]) -> str | None:
    """The `hash_weights` that a checkpoint's model would have, without loading it: only samples are read.

    Args:
        folder: holds the configuration, of a model that transformers knows.
        files: its safetensors files, known to be whole.

    Returns:
        None where the files do not hold what the model has, name by name: quantised, or stored otherwise.
    """
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    stored = {name: entry for file in files for name, entry in read_header(file).items()}
    named = [(name, tuple(one.shape)) for name, one in model.named_parameters()]
    if any(name not in stored or stored[name].shape != shape for name, shape in named):
        return None
    if any(stored[name].dtype not in STORED for name, _ in named):
        return None
    return _digest((name, shape, stored[name].sample) for name, shape in named)


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """Where a safetensors file holds one: its first byte and the one after its last."""

    file: Path
    start: int
    stop: int
    dtype: str
    shape: tuple[int, ...]

    def sample(self) -> Tensor:
        """As `_sample` of it; the pages between are not read."""
        kind, dtype = STORED[self.dtype]
        count = int(np.prod(self.shape, dtype=np.int64))
        flat = np.memmap(self.file, dtype=kind, mode="r", offset=self.start, shape=(count,))
        values = torch.from_numpy(np.array(flat[:: _stride(count)]))
        return values.view(dtype).to(torch.bfloat16)


def read_header(file: Path) -> dict[str, TensorPlace]:
    """What a safetensors file says that it holds, by name.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, struct.error: it is none.
        OSError: it can't be read.
    """
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        if size > file.stat().st_size:
            raise ValueError("its header is longer than the file")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        found[name] = TensorPlace(
            file=file, start=8 + size + start, stop=8 + size + stop, dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
        )  # fmt: skip
    return found


def _digest(parameters: Iterable[tuple[str, tuple[int, ...], Callable[[], Tensor]]]) -> str:
    digest = hashlib.sha256()
    for name, shape, sample in sorted(parameters, key=lambda parameter: parameter[0]):
        digest.update(f"{name} {shape}\n".encode())
        digest.update(sample().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sample(flat: Tensor) -> Tensor:
    return flat[:: _stride(flat.numel())].to(torch.bfloat16).cpu().contiguous()


def _stride(num_values: int) -> int:
    return max(1, num_values // SAMPLED_VALUES)
