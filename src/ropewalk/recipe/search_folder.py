"""RunFolder: the folder of one search.

runs/my-model/                       of a search
├── journal.jsonl                    every trial, as it ended
├── factors.json                     the best
├── factors-searched.json            the best searched candidate, where a closed form is better
├── factors-no-start-tokens.json     the best with n-hat 0
├── run.json                         what was run, and the result in short
├── records.jsonl                    measurements, one a line
└── *.png                            figures
"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.recipe.run_disk import (
    FORMAT,
    FORMAT_VERSION,
    as_line,
    make_folder,
    names_in,
    remove_empty,
    require_empty,
    write_file,
    write_lines,
)
from ropewalk.search.journal import Journal
from ropewalk.search.provenance import run_id
from ropewalk.search.result import SearchResult

RUN_NAME = "run.json"


class RunFolder:
    """One run's folder; made by `create` or `resume`.

    As a context manager it takes back the folders that it made, if nothing was written into them.

    Attributes:
        path: the folder.
        journal: of its search, not begun.
    """

    def __init__(self, path: Path, made: list[Path], *, cut_damaged: bool = False) -> None:
        self.path = path
        self.journal = Journal(self.journal_path, cut_damaged=cut_damaged)
        self._made = made

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """A folder for a new run: a new one, or an empty one.

        Raises:
            RunFolderError: it holds another run or other files, is no folder, or can't be written.
        """
        folder = cls._open(Path(path))
        present = names_in(folder.path)
        if folder.journal_path.name in present:
            raise RunFolderError(
                f"{path} holds another run: go on with it by --resume, or choose another folder."
            )
        require_empty(folder.path, present)
        return folder

    @classmethod
    def resume(cls, path: str | Path, *, cut_damaged: bool = False) -> "RunFolder":
        """The folder of a run that was begun; one in which nothing was written yet begins anew.

        Whether it is the same run is known when its journal is begun.

        Args:
            path: of the folder.
            cut_damaged: as `Journal`.

        Raises:
            RunFolderError: it holds other files and no run, is no folder, or can't be written.
        """
        folder = cls._open(Path(path), cut_damaged=cut_damaged)
        present = names_in(folder.path)
        if folder.journal_path.name not in present:
            require_empty(folder.path, present)
        return folder

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def factors_path(self) -> Path:
        return self.path / "factors.json"

    @property
    def factors_without_start_tokens_path(self) -> Path:
        return self.path / "factors-no-start-tokens.json"

    @property
    def searched_factors_path(self) -> Path:
        return self.path / "factors-searched.json"

    @property
    def run_path(self) -> Path:
        return self.path / RUN_NAME

    @property
    def records_path(self) -> Path:
        return self.path / "records.jsonl"

    def figure_path(self, name: str) -> Path:
        """Where a figure called e.g. `perplexity` lies."""
        return self.path / f"{name}.png"

    def write_search(self, result: SearchResult) -> None:
        """Write what a search found: its factors, and the run in short.

        Raises:
            RunFolderError: it can't be written.
        """
        write_file(self.factors_path, result.factors.to_json().encode())
        plain = result.factors_without_start_tokens
        if plain is not None:
            write_file(self.factors_without_start_tokens_path, plain.to_json().encode())
        if result.not_written is not None:
            write_file(self.searched_factors_path, result.not_written.to_json().encode())
        summary = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "run_id": run_id(result.identity),
            "identity": result.identity,
            "environment": result.environment,
            "result": result.as_dict(),
        }
        write_file(self.run_path, as_line(summary, indent=2))

    def write_records(self, records: Iterable[EvalRecord]) -> None:
        """Write measurements in the place of those before.

        Raises:
            RunFolderError: it can't be written.
        """
        write_lines(self.records_path, (record.as_json() for record in records))

    def write_figure(self, name: str, png: bytes) -> Path:
        """Write one figure and say where.

        Raises:
            RunFolderError: it can't be written.
        """
        path = self.figure_path(name)
        write_file(path, png)
        return path

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close()
        remove_empty(self._made)

    @classmethod
    def _open(cls, path: Path, *, cut_damaged: bool = False) -> "RunFolder":
        return cls(path, make_folder(path), cut_damaged=cut_damaged)
