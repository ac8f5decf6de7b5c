"""The untouched model in the form that an engine reads, to be compared with on equal terms."""

import json
from pathlib import Path

from ropewalk.errors import ModelError
from ropewalk.export.checkpoint import find_checkpoint
from ropewalk.models.longrope_keys import restore_keys
from ropewalk.models.saved_keys import CONFIG


def base_folder(model: str, folder: Path, revision: str | None = None) -> Path:
    """A checkpoint that transformers 4 and 5 read alike: weights linked, its own scaling in both forms.

    Args:
        folder: an empty one.

    Raises:
        ModelError, ExportError: no checkpoint for transformers.
    """
    checkpoint = find_checkpoint(model, revision)
    checkpoint.require_whole()
    checkpoint.take_along(folder)
    checkpoint.take_weights(folder)
    try:
        config = restore_keys(checkpoint.config)
    except ModelError:
        config = checkpoint.config
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder
