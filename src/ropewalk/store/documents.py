"""JSON files: read with limits, checked for their format and version, and written complete or not at all.

A document of the package is one JSON object that begins with its envelope: `"format"`, a name such as
`ropewalk.run`, and `"version"`, a whole number from 1.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ropewalk.errors import RopewalkError, RunFolderError, shown
from ropewalk.store.disk_errors import disk_errors, reason_of
from ropewalk.store.files import read_bounded, write_atomically
from ropewalk.store.strict_json import JsonError, parse_json

LARGEST_JSON_BYTES = 2**28

Item = TypeVar("Item")


def read_json(path: Path, error: type[RopewalkError], *, remedy: str, allow_nan: bool = False) -> Any:
    """The JSON value in a file.

    Args:
        path: the file, of at most `LARGEST_JSON_BYTES`.
        error: the class to raise.
        remedy: what the user can do if it can't be read, as the end of a sentence.
        allow_nan: as `parse_json`.

    Raises:
        RopewalkError: of the class `error`: missing, too large, or not strict JSON.
    """
    try:
        return parse_json(read_bounded(path, LARGEST_JSON_BYTES), allow_nan=allow_nan)
    except (OSError, JsonError) as found:
        raise error(f"{path} can't be read as JSON ({reason_of(found)}): {remedy}.") from None


def read_object(
    path: Path, error: type[RopewalkError], *, remedy: str, allow_nan: bool = False
) -> dict[str, Any]:
    """As `read_json`, for a file of one JSON object."""
    found = read_json(path, error, remedy=remedy, allow_nan=allow_nan)
    if not isinstance(found, dict):
        raise error(f"{path} is not a JSON object: {remedy}.")
    return found


def read_document(
    path: Path, error: type[RopewalkError], *, file_format: str, versions: Sequence[int] = (1,), remedy: str
) -> dict[str, Any]:
    """As `read_object`, for a document whose envelope is checked; see `check_envelope`."""
    found = read_object(path, error, remedy=remedy)
    return check_envelope(found, path, error, formats=(file_format,), versions=versions, remedy=remedy)


def envelope(file_format: str, version: int, **content: Any) -> dict[str, Any]:
    """A document: its format, its version, and its content, in this order."""
    return {"format": file_format, "version": version, **content}


def check_envelope(
    document: Any,
    source: str | Path,
    error: type[RopewalkError],
    *,
    formats: Sequence[str],
    versions: Sequence[int] = (1,),
    remedy: str,
) -> dict[str, Any]:
    """Returns a document if its format and version are known here.

    Args:
        document: parsed JSON.
        source: the file that the message names.
        error: the class to raise.
        formats: the formats that the caller reads.
        versions: the versions that the caller reads, ascending.
        remedy: what the user can do about another format, as the end of a sentence.

    Raises:
        RopewalkError: of the class `error`: another format, or a version that is not known.
    """
    if not isinstance(document, dict) or document.get("format") not in formats:
        raise error(f'{source} has no "format": "{formats[0]}": {remedy}.')
    version: Any = document.get("version")
    is_number = isinstance(version, int) and not isinstance(version, bool)
    if is_number and version in versions:
        return document
    if is_number and version > versions[-1]:
        raise error(f"{source} has format version {shown(version)}, above {versions[-1]}: update Ropewalk.")
    raise error(
        f"{source} has format version {shown(version)}, but versions are whole numbers from 1: {remedy}."
    )


def write_file(path: Path, content: bytes, error: type[RopewalkError] = RunFolderError) -> None:
    """As `write_atomically`, with a one-line error.

    Raises:
        RopewalkError: of the class `error`: it can't be written.
    """
    with disk_errors(path, error):
        write_atomically(path, content)


def write_document(path: Path, document: dict[str, Any], error: type[RopewalkError] = RunFolderError) -> None:
    """Writes one JSON object with indented lines; see `write_file`."""
    write_file(path, as_line(document, indent=2), error)


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object per line; see `write_file`."""
    write_file(path, b"".join(map(as_line, values)))


def read_lines(path: Path, make: Callable[[Any], Item]) -> list[Item]:
    """An object for each line of a file that `write_lines` wrote.

    Args:
        path: the file.
        make: makes an object of a line's JSON value; raises ValueError if it can't.

    Raises:
        RunFolderError: it can't be read; names the line.
    """
    made: list[Item] = []
    try:
        for line in read_bounded(path, LARGEST_JSON_BYTES).splitlines():
            made.append(make(parse_json(line)))
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(
            f"{path}, line {len(made) + 1} can't be read ({reason_of(error)}): measure again."
        ) from None
    return made


def as_line(value: dict[str, Any], indent: int | None = None) -> bytes:
    """JSON with a newline at its end."""
    return json.dumps(value, indent=indent, allow_nan=False).encode() + b"\n"
