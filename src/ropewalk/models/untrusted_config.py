"""Configurations from other people: they describe a model, and must not choose the code that runs.

A `config.json` can choose the attention and the expert code that transformers runs (even a kernel from the
hub, `owner/kernel:function`), the fusions that it patches into its classes, and the file of the weights. The
caller decides about the first three, so these keys are removed; the last key raises an error.
"""

import copy
from typing import Any

from transformers import PreTrainedConfig

from ropewalk.errors import ModelError
from ropewalk.models.weight_files import INDEX, WEIGHTS

IMPLEMENTATIONS = ("_attn_implementation", "_experts_implementation")
DROPPED = ("fusion_config", "distributed_config", "kernel_config", "use_kernels", "custom_generate")
CHOOSES_CODE = (*IMPLEMENTATIONS, *DROPPED)
NAMES_WEIGHTS = "transformers_weights"


def without_chosen_code(config: Any, name: str = "The model") -> Any:
    """A copy of a configuration without the keys that choose code.

    Args:
        config: a transformers configuration; nested configurations are copied in the same way.
        name: the model's name in errors.

    Raises:
        ModelError: it names a file of weights other than `model.safetensors` or its index.
    """
    config = copy.deepcopy(config)
    for part in _parts(config):
        stated = getattr(part, NAMES_WEIGHTS, None)
        if stated not in (None, WEIGHTS, INDEX):
            raise ModelError(
                f"{name} names {stated!r:.100} as its weights ({NAMES_WEIGHTS} in its config.json), but only "
                f"{WEIGHTS} or its index is read: rename the file, and remove that key."
            )
        for key in (*DROPPED, NAMES_WEIGHTS):
            vars(part).pop(key, None)
        for key in IMPLEMENTATIONS:
            setattr(part, key, None)
    return config


def _parts(config: Any) -> list[Any]:
    """A configuration and its nested ones; outer ones last, because they also set values on inner ones."""
    inner: list[Any] = []
    for value in vars(config).values():
        values = value.values() if isinstance(value, dict) else value
        for one in values if isinstance(value, dict | list | tuple) else [value]:
            if isinstance(one, PreTrainedConfig):
                inner += _parts(one)
    return [*inner, config]
