"""The measurements that a run's folder holds, whichever kind of run it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord, PasskeyAnswer
from ropewalk.files import read_bounded
from ropewalk.strict_json import parse_json

LARGEST_BYTES = 2**28
Made = TypeVar("Made")

_RECORD = TypeAdapter(EvalRecord)
_ANSWER = TypeAdapter(PasskeyAnswer)


def as_record(values: Any) -> EvalRecord:
    """What `EvalRecord.as_json` gave, checked.

    Raises:
        ValueError: a value is missing, unknown or of a wrong type.
    """
    return _same(_RECORD.validate_python(values), EvalRecord.from_json, values)


def as_answer(values: Any) -> PasskeyAnswer:
    """As `as_record`."""
    return _same(_ANSWER.validate_python(values), lambda values: PasskeyAnswer(**values), values)


def _same(validated: Made, make: Callable[[Any], Made], values: Any) -> Made:
    """What `make` makes, which is not converted: "5" is no number, though pydantic would make one of it."""
    try:
        made = make(values)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if made != validated:
        raise ValueError("a value is of a wrong type")
    return made


def read_records(path: Path) -> list[EvalRecord]:
    """The measurements of a search's run, or of all stages of a recipe's.

    Raises:
        RunFolderError: there are none, or they can't be read.
    """
    files = [path / "records.jsonl", *sorted(path.glob("stages/*/records.jsonl"))]
    records = [record for file in files if file.is_file() for record in _read_file(file)]
    if not records:
        raise RunFolderError(
            f"{path} holds no measurements: name the folder of a search's or of a recipe's run."
        )
    return records


def _read_file(file: Path) -> list[EvalRecord]:
    records: list[EvalRecord] = []
    try:
        for line in read_bounded(file, LARGEST_BYTES).splitlines():
            records.append(as_record(parse_json(line)))
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise RunFolderError(
            f"{file}, line {len(records) + 1} can't be read ({reason:.100}): measure again."
        ) from None
    return records
