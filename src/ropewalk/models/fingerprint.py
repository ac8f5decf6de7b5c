"""A hash that distinguishes checkpoints of one geometry, of a loaded model or of its files alone."""

import hashlib
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.load_errors import one_line_errors
from ropewalk.models.untrusted_config import without_chosen_code
from ropewalk.models.weight_files import FLOATS, stored_dtypes

SAMPLED_VALUES = 1024


class OtherWeightsWarning(UserWarning):
    """Factors are used with other weights than those that they were made on."""


def warn_if_other_weights(
    factors: RescaleFactors, source: str, *, model: str, weights_sha256: str | None
) -> None:
    """Warn if factors were made on other weights of the same geometry; the warning names both models.

    Args:
        source: the name of the factors in the warning.
        model, weights_sha256: the model that uses them; None for an unknown hash.
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

    The sample keeps the hash of a large model fast, and bfloat16 gives float32 and bfloat16 loads of one
    checkpoint the same hash. The hash distinguishes checkpoints; it does not protect against forgery.
    """
    return _digest(sorted(model.named_parameters(), key=itemgetter(0)))


def hash_stored_weights(config: Any, files: Iterable[Path]) -> str | None:
    """The `hash_weights` of a checkpoint's model, from its memory-mapped files, without loading it.

    Args:
        config: its configuration, as transformers reads it.
        files: its safetensors files.

    Returns:
        None if the files do not have the names of the model's parameters (quantised, or stored in another
        way).

    Raises:
        ModelError: a file is incomplete or can't be read, or transformers can't build such a model.
    """
    files = list(files)
    if config.get_text_config(decoder=True).num_hidden_layers > sum(len(stored_dtypes(f)) for f in files):
        return None  # a configuration may state any number of layers, and all of them would be built
    name = config.name_or_path or config.model_type
    with torch.device("meta"), one_line_errors(name):
        model = AutoModelForCausalLM.from_config(without_chosen_code(config, name))
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        stored = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (no mapping)
        named = sorted(model.named_parameters(), key=itemgetter(0))
        if not all(name in stored and _holds(stored[name], name, one) for name, one in named):
            return None
        return _digest((name, stored[name].get_tensor(name)) for name, _ in named)


def _holds(file: Any, name: str, parameter: Tensor) -> bool:
    entry = file.get_slice(name)
    return tuple(entry.get_shape()) == tuple(parameter.shape) and entry.get_dtype() in FLOATS


def _digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """The hash of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // SAMPLED_VALUES)
        sample = flat[::stride].to(torch.bfloat16).cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
