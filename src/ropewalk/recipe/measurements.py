"""What a run's folder tells a model card: measurements, and where the model comes from."""

from pathlib import Path
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.export.card import Origin
from ropewalk.recipe.run_disk import read_document
from ropewalk.recipe.run_folder import PipelineFolder
from ropewalk.recipe.search_folder import RUN_NAME
from ropewalk.store import read_bounded
from ropewalk.strict_json import parse_json

LARGEST_BYTES = 2**28


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
            records.append(EvalRecord.from_json(parse_json(line)))
    except (OSError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise RunFolderError(
            f"{file}, line {len(records) + 1} can't be read ({reason:.100}): measure again."
        ) from None
    return records


def read_origin(path: Path) -> Origin | None:
    """What a search's or a recipe's run says about the model that comes out of it; None if it is neither.

    Raises:
        RunFolderError: what it says can't be read.
    """
    folder = PipelineFolder(path)
    try:
        if folder.recipe_path.is_file():
            return _of_recipe(folder)
        if (path / RUN_NAME).is_file():
            run = read_document(path / RUN_NAME)
            return Origin(base_model=str(run["identity"]["model"]["name"]), run_id=run.get("run_id"))
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{path} holds a run that can't be read: name another one.") from None
    return None


def _of_recipe(folder: PipelineFolder) -> Origin:
    recipe: dict[str, Any] = read_document(folder.recipe_path)["recipe"]
    made = [read_document(file)["made"] for file in sorted(folder.path.glob("stages/*/done.json"))]
    tuned = [stage["weights_sha256"] for stage in made if "weights_sha256" in stage]
    return Origin(
        base_model=str(recipe["model"]["name"]), recipe=recipe, tuned_weights=tuned[-1] if tuned else None
    )


def require_same_run(origin: Origin, run_id: object, factors: Path) -> None:
    """Refuse measurements of another search than that which found the factors, as far as both are known.

    Args:
        run_id: of the factors.

    Raises:
        RunFolderError: they are of another one.
    """
    if origin.run_id is not None and isinstance(run_id, str) and run_id != origin.run_id:
        raise RunFolderError(
            f"{factors} was found by run {run_id}, but the measurements are of run {origin.run_id}: name the "
            f"run that these factors come from."
        )
