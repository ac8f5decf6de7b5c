"""Adds the RoPE keys of transformers 4 to configurations that transformers 5 saves.

transformers 5 reads the keys of version 4, but saves only its own (`save_pretrained`, every checkpoint of a
Trainer). Ropewalk adds version 4's keys after the save: to a folder (`rewrite_keys`), or in every save of a
model (`keep_keys`).
"""

import json
from pathlib import Path
from typing import Any

from ropewalk.errors import ModelError
from ropewalk.models.longrope_config import restore_keys
from ropewalk.store import read_object, write_atomically

CONFIG = "config.json"


def rewrite_keys(folder: str | Path) -> bool:
    """Write both forms of the rotary's keys into a checkpoint's `config.json`; other keys do not change.

    Args:
        folder: a checkpoint that transformers 5 saved, as a Trainer does.

    Returns:
        True if a key was missing.

    Raises:
        ModelError: there is no such folder, or its configuration has no rotary.
    """
    path = Path(folder) / CONFIG
    config = read_config_file(path)
    restored = restore_keys(config)
    if restored == config:
        return False
    write_atomically(path, json.dumps(restored, indent=2).encode() + b"\n")
    return True


def keep_keys(model: Any) -> None:
    """Make every later save of this model (`save_pretrained`, a Trainer) write both forms of the keys.

    This applies to the given object in this process, not to a model that transformers loads from the same
    files. A second call changes nothing.
    """
    if not isinstance(model.__dict__.get("save_pretrained"), _SavingBothForms):
        model.__dict__["save_pretrained"] = _SavingBothForms(model)


def read_config_file(path: Path) -> dict[str, Any]:
    """The JSON object in a `config.json`.

    Raises:
        ModelError: there is no such file, or it is not a JSON object.
    """
    if not path.exists():
        raise ModelError(f"{path.parent} has no {CONFIG}: name a checkpoint's folder.")
    return read_object(path, ModelError, remedy="copy it again", allow_nan=True)


class _SavingBothForms:
    """Replaces one model's `save_pretrained`; a copy of the model has its own."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> Any:
        saved = type(self.model).save_pretrained(self.model, save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and (Path(save_directory) / CONFIG).is_file():
            rewrite_keys(save_directory)
        return saved
