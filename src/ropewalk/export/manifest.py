"""ropewalk.json: the description of an exported folder, for `ropewalk verify` and for users."""

import json
from pathlib import Path
from typing import Any

from ropewalk import __version__
from ropewalk.errors import ExportError, shown
from ropewalk.export import EXPORT_MODES, Dropped, EngineNote, ExportMode, Served
from ropewalk.export.fold import Folded
from ropewalk.export.source_checkpoint import Checkpoint
from ropewalk.store import envelope, read_document

MANIFEST = "ropewalk.json"
FORMAT = "ropewalk.export"
FORMAT_VERSION = 1
REMEDY = "export again, or remove it"


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
    """The content of the file.

    Args:
        served: the factors as the configuration states them; after a fold, with the engine's attention
            factor.
        kept: the other keys of the rotary's dictionary.
        adapter: `name`, and `as`: merged, or beside the base.
    """
    document = envelope(
        FORMAT,
        FORMAT_VERSION,
        ropewalk=__version__,
        mode=served.mode,
        model={"name": checkpoint.name, "revision": checkpoint.revision},
        adapter=adapter,
        folded=None if folded is None else {**vars(folded), "scale": folded.scale},
        short=served.short.as_document(),
        long=served.long.as_document(),
        kept=kept,
        dropped=[vars(entry) for entry in dropped],
        engines=[vars(note) for note in engines],
    )
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def read_folder_mode(folder: Path) -> ExportMode | None:
    """The mode of an exported folder; None if it has no manifest.

    Raises:
        ExportError: its manifest can't be read.
    """
    document = _read(folder)
    return None if document is None else document["mode"]


def read_folded(folder: Path) -> tuple[float, float] | None:
    """(our attention factor, the engine's) of a folded export; None if nothing was folded.

    Raises:
        ExportError: its manifest can't be read.
    """
    folded = (_read(folder) or {}).get("folded")
    try:
        return None if folded is None else (float(folded["ours"]), float(folded["engine"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ExportError(
            f"{folder / MANIFEST} does not state what was folded ({error}): export again."
        ) from None


def require_unfolded(folder: Path) -> None:
    """Refuse an export with a folded attention factor as the source of another: it would be applied twice.

    Raises:
        ExportError: the weights contain an attention factor, or the manifest can't be read.
    """
    if read_folded(folder) is not None:
        raise ExportError(
            f"The query weights of {folder} contain an attention factor already ({MANIFEST}): export the "
            f"model that it was made from."
        )


def read_kept(folder: Path) -> dict[str, Any]:
    """The other keys of the folder's rotary dictionary; empty without a manifest.

    Raises:
        ExportError: its manifest can't be read.
    """
    kept = (_read(folder) or {}).get("kept", {})
    if not isinstance(kept, dict):
        raise ExportError(f"{folder / MANIFEST} can't be read (kept is not an object): {REMEDY}.")
    return kept


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    if not path.is_file():
        return None
    document = read_document(path, ExportError, file_format=FORMAT, remedy=REMEDY)
    if document.get("mode") not in EXPORT_MODES:
        raise ExportError(
            f"{path} has the mode {shown(document.get('mode'))}, not one of {EXPORT_MODES}: {REMEDY}."
        )
    return document
