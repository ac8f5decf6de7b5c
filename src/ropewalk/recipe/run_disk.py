"""What every run's folder does with the disk, and how it is explained when the disk does not let it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ropewalk.errors import RunFolderError
from ropewalk.store import FolderLock, clear_partials, read_bounded, write_atomically
from ropewalk.strict_json import JsonError, parse_json

FORMAT = "ropewalk.run"
FORMAT_VERSION = 1
LARGEST_DOCUMENT_BYTES = 2**28
LARGEST_HASHED_BYTES = 64 * 2**20  # of a larger output, a checkpoint's weights, only the size is compared

Made = TypeVar("Made")


def make_folder(path: Path) -> list[Path]:
    """A folder that can be written, and the folders that were made for it, children first.

    Raises:
        RunFolderError: it is a file, or can't be made or written.
    """
    made: list[Path] = []
    try:
        for folder in [folder for folder in (*reversed(path.parents), path) if not folder.exists()]:
            folder.mkdir(exist_ok=True)
            made.insert(0, folder)
    except OSError as error:
        remove_empty(made)
        raise explain(path, error) from error
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file: choose a folder for the run.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunFolderError(f"{path} may not be written: change its permissions, or choose another folder.")
    return made


def names_in(path: Path) -> list[str]:
    """Of the files and folders there.

    Raises:
        RunFolderError: it can't be read.
    """
    with explained(path):
        return sorted(entry.name for entry in path.iterdir())


def require_empty(path: Path, present: list[str]) -> None:
    """Refuse a folder in which something is present.

    Raises:
        RunFolderError: names some of it.
    """
    if present:
        names = ", ".join(present[:3]) + (" ..." if present[3:] else "")
        raise RunFolderError(f"{path} holds other files ({names}): choose a new or an empty folder.")


def locked(folder: Path) -> FolderLock:
    """The folder as this process's own.

    Raises:
        RunFolderError: another process holds it, or it can't be written.
    """
    with explained(folder):
        return FolderLock(folder)


def without_partials(folder: Path, name: str = "*") -> None:
    """As `files.clear_partials`.

    Raises:
        RunFolderError: something can't be removed.
    """
    with explained(folder):
        clear_partials(folder, name)


def read_document(path: Path, remedy: str = "begin again in another folder") -> dict[str, Any]:
    """A file of one JSON object.

    Args:
        path: of the file.
        remedy: what to do where it can't be read.

    Raises:
        RunFolderError: it can't be read, or is damaged.
    """
    try:
        document = parse_json(read_bounded(path, LARGEST_DOCUMENT_BYTES))
    except (OSError, JsonError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunFolderError(f"{path} can't be read ({reason}): {remedy}.") from None
    if not isinstance(document, dict):
        raise RunFolderError(f"{path} is damaged (no JSON object): {remedy}.")
    return document


def digest(document: dict[str, Any]) -> str:
    """SHA-256 of JSON values, whatever order their keys are in."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, allow_nan=False).encode()).hexdigest()


def content_of(path: Path) -> dict[str, Any] | None:
    """What a file holds, in short; None where it is not there."""
    try:
        size = path.stat().st_size
        if size > LARGEST_HASHED_BYTES:
            return {"bytes": size}
        return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        return None


def write_file(path: Path, content: bytes) -> None:
    """Whole or not at all.

    Raises:
        RunFolderError: it can't be written.
    """
    with explained(path):
        write_atomically(path, content)


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """As `write_file`, a JSON object a line."""
    write_file(path, b"".join(map(as_line, values)))


def read_lines(path: Path, make: Callable[[dict[str, Any]], Made]) -> list[Made]:
    """What `make` makes of each line's object; nothing if there are none, or if one can't be read.

    Args:
        make: raises ValueError or TypeError where an object is not what it makes.
    """
    try:
        content = read_bounded(path, LARGEST_DOCUMENT_BYTES)
        return [make(parse_json(line)) for line in content.splitlines()]
    except (OSError, ValueError, TypeError):
        return []


def as_line(value: dict[str, Any], indent: int | None = None) -> bytes:
    """JSON that ends its line."""
    return json.dumps(value, indent=indent, allow_nan=False).encode() + b"\n"


def remove_empty(folders: list[Path]) -> None:
    """Remove them; children come before their parents, and one that holds something stays."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What goes wrong with the disk meanwhile, as one line about `path`.

    Raises:
        RunFolderError: see `explain`.
    """
    try:
        yield
    except OSError as error:
        raise explain(path, error) from error


def explain(path: Path, error: OSError) -> RunFolderError:
    """Why a file or folder could not be written, to be raised."""
    reason = (error.strerror or str(error)).lower()
    return RunFolderError(f"{path} can't be written: {reason}; nothing was half-written there.")
