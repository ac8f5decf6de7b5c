"""Reads a finished run for a model card: its measurements, and the origin of its model."""

from pathlib import Path

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.export.card import Origin
from ropewalk.recipe.run_folder import REMEDY, PipelineFolder
from ropewalk.search.run_folder import FORMAT, RunFolder
from ropewalk.store import read_document, read_lines


def read_records(path: Path) -> list[EvalRecord]:
    """The measurements of a search's run, or of all stages of a recipe's.

    Raises:
        RunFolderError: there are none, or they can't be read.
    """
    files = [RunFolder(path).records_path, *(stage.records_path for stage in PipelineFolder(path).stages())]
    records = [
        record for file in files if file.is_file() for record in read_lines(file, EvalRecord.from_json)
    ]
    if not records:
        raise RunFolderError(
            f"{path} has no measurements: name the folder of a search's or of a recipe's run."
        )
    return records


def read_origin(path: Path) -> Origin | None:
    """Where the model of a search's or a recipe's run comes from; None if the folder is neither.

    Raises:
        RunFolderError: it can't be read.
    """
    recipe, search = PipelineFolder(path), RunFolder(path)
    try:
        if recipe.recipe_path.is_file():
            return _of_recipe(recipe)
        if search.run_path.is_file():
            run = read_document(search.run_path, RunFolderError, file_format=FORMAT, remedy=REMEDY)
            return Origin(base_model=str(run["identity"]["model"]["name"]), run_id=run.get("run_id"))
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{path} contains a run that can't be read: name another one.") from None
    return None


def _of_recipe(folder: PipelineFolder) -> Origin:
    recipe = folder.read_recipe()
    made = [values for stage in folder.stages() if (values := stage.made()) is not None]
    tuned = [values["weights_sha256"] for values in made if "weights_sha256" in values]
    return Origin(
        base_model=str(recipe["model"]["name"]), recipe=recipe, tuned_weights=tuned[-1] if tuned else None
    )


def require_same_search(origin: Origin, run_id: object, factors: Path) -> None:
    """Refuses measurements of another search than the one that found the factors, if both are known.

    Args:
        origin: of the measurements.
        run_id: of the factors.
        factors: the file that the message names.

    Raises:
        RunFolderError: they are of another one.
    """
    if origin.run_id is not None and isinstance(run_id, str) and run_id != origin.run_id:
        raise RunFolderError(
            f"{factors} was found by run {run_id}, but the measurements are of run {origin.run_id}: name the "
            f"run that these factors come from."
        )
