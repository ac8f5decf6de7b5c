"""SHA-256 of files and of JSON values, and lists of files that are compared by it."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

LARGEST_HASHED_BYTES = 64 * 2**20  # of a larger file, such as weights, `describe_file` takes the size only


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path, *, leave_out: Collection[str] = ()) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there with `/` between folders.

    Args:
        folder: where the files are.
        leave_out: paths that are not hashed.

    Raises:
        OSError: one can't be read.
    """
    return {name: hash_file(folder / name) for name in relative_file_names(folder) if name not in leave_out}


def relative_file_names(folder: Path) -> list[str]:
    """The path of every file below a folder, relative to it, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def differences_from(
    folder: Path, expected: Mapping[str, str], *, leave_out: Collection[str] = ()
) -> Iterator[str]:
    """What in a folder is not what `hash_files` found: one phrase per file.

    Raises:
        OSError: a file can't be read.
    """
    present = {name for name in relative_file_names(folder) if name not in leave_out}
    for name in sorted(present | set(expected)):
        if name not in present:
            yield f"{name} is missing"
        elif name not in expected:
            yield f"{name} was added"
        elif hash_file(folder / name) != expected[name]:
            yield f"{name} has changed"


def describe_file(path: Path) -> dict[str, Any] | None:
    """Size and, up to `LARGEST_HASHED_BYTES`, SHA-256 of a file; None if it can't be read."""
    try:
        size = path.stat().st_size
        return {"bytes": size} if size > LARGEST_HASHED_BYTES else {"bytes": size, "sha256": hash_file(path)}
    except OSError:
        return None


def hash_json(values: Any) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
