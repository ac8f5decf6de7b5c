"""ropewalk.json: what an exported folder says about itself, for `ropewalk verify` and for its owner."""

import json
from pathlib import Path
from typing import Any

from ropewalk import __version__
from ropewalk.errors import ExportError
from ropewalk.export import Dropped, EngineNote, Mode, Served
from ropewalk.export.fold import Folded
from ropewalk.export.source_checkpoint import Checkpoint

MANIFEST = "ropewalk.json"
FORMAT = "ropewalk.export"
FORMAT_VERSION = 1


def manifest(
    checkpoint: Checkpoint,
    served: Served,
    *,
    kept: dict[str, Any],
    folded: Folded | None,
    adapter: dict[str, str] | None,
    engines: tuple[EngineNote, ...],
    dropped: tuple[Dropped, ...],
) -> str:
    """The file's content.

    Args:
        served: as the configuration states it; after a fold its attention factor is the engine's.
        kept: what the rotary's dictionary says besides.
        adapter: `name` and `as` (merged, or beside the base).
    """
    document = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "ropewalk": __version__,
        "mode": served.mode,
        "model": {"name": checkpoint.name, "revision": checkpoint.revision},
        "adapter": adapter,
        "folded": None if folded is None else {**vars(folded), "scale": folded.scale},
        "short": served.short.as_document(),
        "long": served.long.as_document(),
        "kept": kept,
        "dropped": [vars(entry) for entry in dropped],
        "engines": [vars(note) for note in engines],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def read_mode(folder: Path) -> Mode | None:
    """How an exported folder was made; None where it does not say.

    Raises:
        ExportError: its manifest can't be read.
    """
    document = _read(folder)
    return None if document is None else document["mode"]


def read_folded(folder: Path) -> tuple[float, float] | None:
    """(our attention factor, the engine's) of a folded export; None where nothing was folded.

    Raises:
        ExportError: its manifest can't be read.
    """
    folded = (_read(folder) or {}).get("folded")
    try:
        return None if folded is None else (float(folded["ours"]), float(folded["engine"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ExportError(
            f"{folder / MANIFEST} does not say what was folded ({error}): export again."
        ) from None


def read_kept(folder: Path) -> dict[str, Any]:
    """What the folder's rotary dictionary says besides the factors; empty where it does not say.

    Raises:
        ExportError: its manifest can't be read.
    """
    kept = (_read(folder) or {}).get("kept", {})
    if not isinstance(kept, dict):
        raise ExportError(
            f"{folder / MANIFEST} can't be read (kept is no object): export again, or remove it."
        )
    return kept


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["version"] != FORMAT_VERSION:
            raise ValueError(f"format {document['format']} version {document['version']}")
        if document["mode"] not in ("pinned", "switching"):
            raise ValueError(f"mode {document['mode']!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExportError(f"{path} can't be read ({error}): export again, or remove it.") from None
    return document
