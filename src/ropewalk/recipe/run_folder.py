"""PipelineFolder: the folder of a recipe's run, and the names of its files.

runs/quick/                          of a recipe (`ropewalk extend`)
├── recipe.json                      the recipe; another recipe is refused
├── stages/01-search-8x/             one folder per stage, see `recipe.stage_folder`
├── result/                          the checkpoint, if one was trained, and factors.json: the factor set
└── result.json                      records, limits and verdicts
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.factors.factor_set import FACTORS_NAME
from ropewalk.recipe.stage_folder import StageFolder
from ropewalk.search.run_folder import FORMAT, FORMAT_VERSION
from ropewalk.store import (
    Lock,
    as_read,
    atomic_folder,
    clear_partials,
    disk_errors,
    envelope,
    link_or_copy,
    make_folder,
    names_in,
    read_document,
    require_empty,
    require_same_run,
    write_atomically,
    write_document,
)

SUMMARY_FORMAT, SUMMARY_VERSION = "ropewalk.result", 1
REMEDY = "begin again in another folder"


class PipelineFolder:
    """The folder of a recipe's run; `open` locks it until `close` or the end of a `with` block.

    Args:
        path: the folder.
        lock: the lock on it. Without one it may only be read.
    """

    def __init__(self, path: Path, lock: Lock | None = None) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, identity: Mapping[str, Any]) -> "PipelineFolder":
        """A new or empty folder for a run of this recipe, or a folder in which it was begun.

        Args:
            path: the folder.
            identity: the recipe, as JSON values.

        Raises:
            RunFolderError: it contains another recipe's run or other files, is in use, is no folder, or
                can't be written.
        """
        path = Path(path)
        make_folder(path)
        with disk_errors(path, RunFolderError):
            folder = cls(path, Lock(path))
        try:
            folder._begin(identity)
        except BaseException:
            folder.close()
            raise
        return folder

    def holds(self, identity: Mapping[str, Any]) -> bool:
        """Whether this recipe's run has begun there.

        Raises:
            RunFolderError: another recipe's has.
        """
        if not self.recipe_path.is_file():
            return False
        # A model or a text in another place is no other recipe: each stage compares their content.
        require_same_run(self.path, identity, self.read_recipe(), RunFolderError, by_hash=False)
        return True

    def read_recipe(self) -> Any:
        """The recipe of the run, as JSON values.

        Raises:
            RunFolderError: it can't be read.
        """
        found = read_document(self.recipe_path, RunFolderError, file_format=FORMAT, remedy=REMEDY)
        return found.get("recipe")

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.json"

    @property
    def result_path(self) -> Path:
        """The folder with the result."""
        return self.path / "result"

    @property
    def result_factors_path(self) -> Path:
        return self.result_path / FACTORS_NAME

    @property
    def summary_path(self) -> Path:
        return self.path / "result.json"

    def stage(self, index: int, name: str) -> StageFolder:
        """A stage's folder, which is created when the stage begins."""
        return StageFolder(self.path / "stages" / f"{index + 1:02d}-{name}")

    def stages(self) -> list[StageFolder]:
        """The folders of all stages that have begun, in order."""
        return [StageFolder(path) for path in sorted(self.path.glob("stages/*"))]

    def write_result(self, checkpoint: Path | None, factors: str) -> None:
        """Writes `result`: the checkpoint (hard links where possible) and the factor set.

        Raises:
            RunFolderError: it can't be written.
        """
        with (
            disk_errors(self.result_path, RunFolderError),
            atomic_folder(self.result_path, replace=True) as partial,
        ):
            if checkpoint is not None:
                shutil.copytree(checkpoint, partial, copy_function=link_or_copy, dirs_exist_ok=True)
            # Replaces the checkpoint's own, which may be a link that must not be written through.
            write_atomically(partial / self.result_factors_path.name, factors.encode())

    def write_summary(self, **summary: Any) -> None:
        """Writes `result.json`.

        Raises:
            RunFolderError: it can't be written.
        """
        write_document(self.summary_path, envelope(SUMMARY_FORMAT, SUMMARY_VERSION, **summary))

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> "PipelineFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, identity: Mapping[str, Any]) -> None:
        with disk_errors(self.path, RunFolderError):
            clear_partials(self.path, self.recipe_path.name)  # the folder may be another's; only this is ours
        if self.holds(identity):
            with disk_errors(self.path, RunFolderError):
                clear_partials(self.path)
            return
        require_empty(self.path, names_in(self.path))
        write_document(self.recipe_path, envelope(FORMAT, FORMAT_VERSION, recipe=as_read(identity)))
