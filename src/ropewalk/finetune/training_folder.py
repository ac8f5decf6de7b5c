"""The folder of one fine-tuning stage: locked during training, and resumed by the same stage only.

<stage>/
├── stage.json              the identity of the stage: model, factors, text and settings
├── checkpoint-<step>/      see `finetune.checkpoints`
├── model/                  the tuned model, when the stage is complete
└── result.json             losses, seconds and tokens; written last
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ropewalk.errors import FinetuneError
from ropewalk.finetune.checkpoints import clear_leftovers
from ropewalk.store import (
    Lock,
    disk_errors,
    envelope,
    read_document,
    require_same_run,
    write_document,
)

FORMAT, FORMAT_VERSION = "ropewalk.finetune", 1
STAGE, RESULT, MODEL = "stage.json", "result.json", "model"
# Parts of the identity that a recipe's own `inputs.json` states and compares.
KNOWN_TO_RECIPE = ("model", "factors")


@contextmanager
def open_stage(stage: Path, identity: Mapping[str, Any], *, part_of_recipe: bool) -> Iterator[None]:
    """Begins a stage in an empty folder, or resumes the same stage; locks the folder for the `with` block.

    Args:
        stage: the folder; it is created if missing.
        identity: everything that the result depends on.
        part_of_recipe: the recipe's run has locked the folder, and compares `KNOWN_TO_RECIPE` itself.

    Raises:
        RunFolderError: another process trains there.
        FinetuneError: it has another stage or other files, or can't be written.
    """
    with disk_errors(stage, FinetuneError):
        stage.mkdir(parents=True, exist_ok=True)
        lock = nullcontext() if part_of_recipe else Lock(stage)
    if part_of_recipe:
        identity = {name: value for name, value in identity.items() if name not in KNOWN_TO_RECIPE}
    with lock:
        _begin(stage, identity)
        yield


def write_result(stage: Path, **result: Any) -> None:
    """Writes `result.json`, after which the stage is complete.

    Raises:
        FinetuneError: it can't be written.
    """
    write_document(stage / RESULT, envelope(FORMAT, FORMAT_VERSION, **result), FinetuneError)


def read_result(stage: Path, remedy: str) -> dict[str, Any]:
    """The content of `result.json`.

    Raises:
        FinetuneError: it is damaged; the message ends with `remedy`.
    """
    return read_document(stage / RESULT, FinetuneError, file_format=FORMAT, remedy=remedy)


def _begin(stage: Path, identity: Mapping[str, Any]) -> None:
    # Safe because the folder is locked: no other run writes a checkpoint here.
    with disk_errors(stage, FinetuneError):
        clear_leftovers(stage)
        present = sorted(path.name for path in stage.iterdir() if not path.name.startswith("."))
    if STAGE in present:
        begun = read_document(
            stage / STAGE, FinetuneError, file_format=FORMAT, remedy="choose another folder"
        )
        found = begun.get("identity")
        if isinstance(found, dict):  # older versions stated more keys in a recipe
            found = {name: value for name, value in found.items() if name in identity}
        require_same_run(stage, identity, found, FinetuneError)
        return
    if present:
        raise FinetuneError(f"{stage} has other files ({present[0]} ...): choose an empty folder.")
    write_document(stage / STAGE, envelope(FORMAT, FORMAT_VERSION, identity=identity), FinetuneError)
