"""RunFolder: the folder of one search, and the names of its files.

runs/my-model/
├── journal.jsonl                    every trial, as it ended
├── factors.json                     the best factors
├── factors-searched.json            the best searched candidate, where a closed-form scheme is better
├── factors-no-start-tokens.json     the best with num_start_tokens 0
├── run.json                         what was run, and a summary of the result
├── records.jsonl                    measurements, one per line
└── *.png                            figures
"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.search.journal import Journal
from ropewalk.search.provenance import run_id
from ropewalk.search.result import SearchResult
from ropewalk.store import (
    envelope,
    make_folder,
    names_in,
    remove_empty,
    require_empty,
    write_document,
    write_file,
    write_lines,
)

FORMAT, FORMAT_VERSION = "ropewalk.run", 1


class RunFolder:
    """The folder of one search; `create` or `resume` returns one.

    At the end of a `with` block the folders that it created are removed, if nothing was written into them.

    Attributes:
        path: the folder.
        journal: the journal of the search, not begun.
    """

    def __init__(self, path: Path, created: list[Path] | None = None, *, cut_damaged: bool = False) -> None:
        self.path = path
        self.journal = Journal(self.journal_path, cut_damaged=cut_damaged)
        self._created = created or []

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """A new or an empty folder for a new search.

        Raises:
            RunFolderError: it contains another run or other files, is no folder, or can't be written.
        """
        folder = cls._open(Path(path))
        present = names_in(folder.path)
        if folder.journal_path.name in present:
            raise RunFolderError(
                f"{path} contains another run: resume it with --resume, or choose another folder."
            )
        require_empty(folder.path, present)
        return folder

    @classmethod
    def resume(cls, path: str | Path, *, cut_damaged: bool = False) -> "RunFolder":
        """The folder of a search to resume, or to begin if nothing was written yet.

        `journal.begin` checks that it is the same search.

        Args:
            path: the folder.
            cut_damaged: as `Journal`.

        Raises:
            RunFolderError: it contains other files and no run, is no folder, or can't be written.
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
        return self.path / "run.json"

    @property
    def records_path(self) -> Path:
        return self.path / "records.jsonl"

    def figure_path(self, name: str) -> Path:
        """The file of a figure with a name such as `perplexity`."""
        return self.path / f"{name}.png"

    def write_search(self, result: SearchResult) -> None:
        """Writes what a search found: its factors, and a summary.

        Raises:
            RunFolderError: it can't be written.
        """
        write_file(self.factors_path, result.factors.to_json().encode())
        plain = result.factors_without_start_tokens
        if plain is not None:
            write_file(self.factors_without_start_tokens_path, plain.to_json().encode())
        if result.not_written is not None:
            write_file(self.searched_factors_path, result.not_written.to_json().encode())
        summary = envelope(
            FORMAT,
            FORMAT_VERSION,
            run_id=run_id(result.identity),
            identity=result.identity,
            environment=result.environment,
            result=result.as_dict(),
        )
        write_document(self.run_path, summary)

    def write_records(self, records: Iterable[EvalRecord]) -> None:
        """Writes measurements; they replace those of an earlier call.

        Raises:
            RunFolderError: it can't be written.
        """
        write_lines(self.records_path, (record.as_json() for record in records))

    def write_figure(self, name: str, png: bytes) -> Path:
        """Writes one figure, and returns its file.

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
        remove_empty(self._created)

    @classmethod
    def _open(cls, path: Path, *, cut_damaged: bool = False) -> "RunFolder":
        return cls(path, make_folder(path), cut_damaged=cut_damaged)
