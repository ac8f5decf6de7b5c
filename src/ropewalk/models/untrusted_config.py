"""A configuration that somebody else wrote: it says what a model is, and must not choose the code that runs.

transformers takes from a `config.json` which attention and expert code to run, a hub's kernel
(`owner/kernel:function`) among them, which fusions to patch into its classes, and which file has the weights.
The first three are the caller's to choose, so they are dropped; the last is refused.
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
    """A copy of a configuration that leaves every choice of code to transformers' defaults and the caller.

    Args:
        config: transformers' configuration; those inside it are treated alike.
        name: how errors call the model.

    Raises:
        ModelError: it names another file of weights than `model.safetensors` or its index.
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
    """A configuration and all those inside it, the outer ones last: they set theirs on the inner ones too."""
    inner: list[Any] = []
    for value in vars(config).values():
        values = value.values() if isinstance(value, dict) else value
        for one in values if isinstance(value, dict | list | tuple) else [value]:
            if isinstance(one, PreTrainedConfig):
                inner += _parts(one)
    return [*inner, config]
