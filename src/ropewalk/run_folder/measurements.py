"""The measurements that a run's folder holds, whichever kind of run it is."""

import json
from pathlib import Path

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord


def read_records(path: Path) -> list[EvalRecord]:
    """The measurements of a search's run, or of all stages of a recipe's.

    Raises:
        RunFolderError: there are none, or they can't be read.
    """
    files = [path / "records.jsonl", *sorted(path.glob("stages/*/records.jsonl"))]
    try:
        lines = [line for file in files if file.is_file() for line in file.read_bytes().splitlines()]
        records = [EvalRecord.from_json(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(f"The measurements in {path} can't be read ({error}): measure again.") from None
    if not records:
        raise RunFolderError(
            f"{path} holds no measurements: name the folder of a search's or of a recipe's run."
        )
    return records
