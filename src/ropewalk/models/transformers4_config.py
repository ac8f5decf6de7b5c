"""A saved configuration that version 4 of transformers, and engines that follow it, can still read.

Whatever transformers 5 saves (`save_pretrained`, every checkpoint of a Trainer) holds version 5's keys alone.
Nothing in a `config.json` can change that: version 5 takes the older keys in and forgets them. So they are
put back after the save, by hand (`rewrite_keys`), or by the model itself (`keep_keys`).
"""

import json
from pathlib import Path
from typing import Any

from ropewalk.errors import ModelError
from ropewalk.models.longrope_config import restore_keys
from ropewalk.store import read_object, write_atomically

CONFIG = "config.json"


def rewrite_keys(folder: str | Path) -> bool:
    """Write both forms of the rotary's keys into a checkpoint's `config.json`; nothing else is changed.

    Args:
        folder: a checkpoint that transformers 5 saved, as a Trainer does.

    Returns:
        Whether anything was missing.

    Raises:
        ModelError: no such folder, or a configuration that version 4 can't be told.
    """
    path = Path(folder) / CONFIG
    config = read_config_file(path)
    restored = restore_keys(config)
    if restored == config:
        return False
    write_atomically(path, json.dumps(restored, indent=2).encode() + b"\n")
    return True


def keep_keys(model: Any) -> None:
    """From now on, whatever saves this model (a Trainer, `save_pretrained`) leaves both forms of the keys.

    It holds for this object, in this process: a model that is loaded anew by plain transformers does not
    know of it. Again is harmless.
    """
    if not isinstance(model.__dict__.get("save_pretrained"), _SavingBothForms):
        model.__dict__["save_pretrained"] = _SavingBothForms(model)


def read_config_file(path: Path) -> dict[str, Any]:
    """The JSON object in a `config.json`.

    Raises:
        ModelError: there is none.
    """
    if not path.exists():
        raise ModelError(f"{path.parent} holds no {CONFIG}: name a checkpoint's folder.")
    return read_object(path, ModelError, remedy="copy it again", allow_nan=True)


class _SavingBothForms:
    """Stands in for one model's `save_pretrained`; a copy of the model gets one of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> Any:
        saved = type(self.model).save_pretrained(self.model, save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True) and (Path(save_directory) / CONFIG).is_file():
            rewrite_keys(save_directory)
        return saved
