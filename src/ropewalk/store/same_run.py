"""Whether a folder has the run that the user asks for: two identities are compared, and differences named.

An identity is a JSON object with everything that a result depends on. The place of a model or a text is part
of it, for its owner to read, but does not count: two copies of the same content are the same run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError

# The parts of an identity that name content, and the fields that only say where the content is.
PLACES = {
    "model": ("name", "revision", "where.revision"),
    "text": ("source", "search", "report", "test"),
    "stop_text": ("source",),
}
CONTENT_HASHES = ("weights_sha256", "data_sha256")
LONGEST_VALUE = 60  # characters


def require_same_run(
    path: Path, given: Mapping[str, Any], begun: Any, error: type[RopewalkError], *, by_hash: bool = True
) -> None:
    """Refuses to resume a run that began with another identity.

    Args:
        path: the file or folder that has the run.
        given: the identity now.
        begun: the identity in the file.
        error: the class to raise.
        by_hash: as `without_places`.

    Raises:
        RopewalkError: of the class `error`; names every difference.
    """
    if not isinstance(begun, Mapping):
        raise error(f"{path} does not identify its run: begin again in another folder.")
    found = differences(
        without_places(as_read(given), by_hash=by_hash), without_places(begun, by_hash=by_hash)
    )
    if found:
        raise error(
            f"{path} contains another run: {'; '.join(found)} there. Repeat the settings it began with, or "
            f"choose another folder or file."
        )


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """Every value that differs between two nested JSON objects, as `name is OURS here, but THEIRS`."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        return [
            line
            for key in keys
            for line in differences(ours.get(key), theirs.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if ours == theirs else [f"{name:.100} is {_short(ours)} here, but {_short(theirs)}"]


def without_places(identity: Mapping[str, Any], *, by_hash: bool = True) -> dict[str, Any]:
    """An identity without the places of its models and texts.

    Args:
        identity: the whole.
        by_hash: only in parts that name their content by a hash. False for the identity of a recipe, whose
            stages compare content one by one.
    """
    return {
        part: _without(about, PLACES[part])
        if part in PLACES and isinstance(about, Mapping) and (not by_hash or _has_hash(about))
        else about
        for part, about in identity.items()
    }


def as_read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a JSON file returns them: tuples become lists."""
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read


def _has_hash(about: Mapping[str, Any]) -> bool:
    return any(about.get(name) is not None for name in CONTENT_HASHES)


def _without(about: Mapping[str, Any], places: tuple[str, ...]) -> dict[str, Any]:
    kept = dict(about)
    for place in places:
        outer, _, inner = place.partition(".")
        if inner:
            kept[outer] = {name: value for name, value in kept.get(outer, {}).items() if name != inner}
        else:
            kept.pop(outer, None)
    return kept


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
