"""A cache of token ids: one file per text in the user's cache folder.

The cache only saves time: a damaged file is computed again, and without a folder that can be written there is
no cache. It can be deleted at any time.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ropewalk.store import write_atomically

FORMAT_VERSION = "1"
UNUSABLE = (OSError, RuntimeError)  # the folder can't be written, or the home folder is unknown


def cache_folder() -> Path:
    """The folder `ROPEWALK_CACHE`, or else `ropewalk` in the platform's folder for caches."""
    if own := os.environ.get("ROPEWALK_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "ropewalk"


def cached_ids(key: str) -> list[int] | None:
    """The ids stored under a key; None if there are none, or they are damaged."""
    try:
        with safe_open(_file(key), framework="numpy") as file:
            ids = file.get_tensor("ids")
            about = file.metadata() or {}
    except (*UNUSABLE, SafetensorError, KeyError):
        return None
    if about != _about(key, ids):
        return None
    return [int(value) for value in ids]


def store_ids(key: str, ids: list[int]) -> None:
    """Stores ids, if the folder can be written."""
    array = np.array(ids, dtype=np.int32)
    try:
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(key), save({"ids": array}, _about(key, array)))
    except UNUSABLE:
        return


def _file(key: str) -> Path:
    return cache_folder() / "tokens" / f"{key}.safetensors"


def _about(key: str, ids: np.ndarray) -> dict[str, str]:
    """The metadata of the file, with a hash that shows damage."""
    return {"version": FORMAT_VERSION, "key": key, "ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest()}
