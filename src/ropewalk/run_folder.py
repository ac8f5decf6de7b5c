"""RunFolder: the only place that knows file names inside a run's folder.

runs/my-model/
├── journal.jsonl                    every trial, as it ended
├── factors.json                     the best
├── factors-no-start-tokens.json     the best with n-hat 0
├── run.json                         what was run, and the result in short
├── records.jsonl                    measurements, one a line
└── *.png                            figures
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.files import write_atomically
from ropewalk.search.journal import Journal
from ropewalk.search.search import SearchResult

FORMAT = "ropewalk.run"
FORMAT_VERSION = 1


class RunFolder:
    """One run's folder; made by `create` or `resume`.

    As a context manager it takes back the folders that it made, if nothing was written into them.

    Attributes:
        path: the folder.
        journal: of its search, not begun.
    """

    def __init__(self, path: Path, made: list[Path]) -> None:
        self.path = path
        self.journal = Journal(self.journal_path)
        self._made = made

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """A folder for a new run: a new one, or an empty one.

        Raises:
            RunFolderError: it holds another run or other files, is no folder, or can't be written.
        """
        folder = cls._open(Path(path))
        present = folder._present()
        if folder.journal_path.name in present:
            raise RunFolderError(
                f"{path} holds another run: go on with it by --resume, or choose another folder."
            )
        folder._require_empty(present)
        return folder

    @classmethod
    def resume(cls, path: str | Path) -> "RunFolder":
        """The folder of a run that was begun; one in which nothing was written yet begins anew.

        Whether it is the same run is known when its journal is begun.

        Raises:
            RunFolderError: it holds other files and no run, is no folder, or can't be written.
        """
        folder = cls._open(Path(path))
        present = folder._present()
        if folder.journal_path.name not in present:
            folder._require_empty(present)
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
    def run_path(self) -> Path:
        return self.path / "run.json"

    @property
    def records_path(self) -> Path:
        return self.path / "records.jsonl"

    def figure_path(self, name: str) -> Path:
        """Where a figure called e.g. `perplexity` lies."""
        return self.path / f"{name}.png"

    def write_search(self, result: SearchResult) -> None:
        """Write what a search found: both factors, and the run in short.

        Raises:
            RunFolderError: it can't be written.
        """
        self._write(self.factors_path, result.factors.to_json().encode())
        plain = result.factors_without_start_tokens
        if plain is not None:
            self._write(self.factors_without_start_tokens_path, plain.to_json().encode())
        summary = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "identity": result.identity,
            "environment": result.environment,
            "result": result.as_dict(),
        }
        self._write(self.run_path, _line(summary, indent=2))

    def write_records(self, records: Iterable[EvalRecord]) -> None:
        """Write measurements in the place of those before.

        Raises:
            RunFolderError: it can't be written.
        """
        self._write(self.records_path, b"".join(_line(record.as_json()) for record in records))

    def write_figure(self, name: str, png: bytes) -> Path:
        """Write one figure and say where.

        Raises:
            RunFolderError: it can't be written.
        """
        path = self.figure_path(name)
        self._write(path, png)
        return path

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close()
        _remove_empty(self._made)

    @classmethod
    def _open(cls, path: Path) -> "RunFolder":
        made: list[Path] = []
        try:
            for folder in [folder for folder in (*reversed(path.parents), path) if not folder.exists()]:
                folder.mkdir(exist_ok=True)
                made.insert(0, folder)
        except OSError as error:
            _remove_empty(made)
            raise _explain(path, error) from error
        if not path.is_dir():
            raise RunFolderError(f"{path} is a file: choose a folder for the run.")
        if not os.access(path, os.W_OK | os.X_OK):
            raise RunFolderError(
                f"{path} may not be written: change its permissions, or choose another folder."
            )
        return cls(path, made)

    def _present(self) -> list[str]:
        try:
            return sorted(entry.name for entry in self.path.iterdir())
        except OSError as error:
            raise _explain(self.path, error) from error

    def _require_empty(self, present: list[str]) -> None:
        if present:
            names = ", ".join(present[:3]) + (" ..." if present[3:] else "")
            raise RunFolderError(f"{self.path} holds other files ({names}): choose a new or an empty folder.")

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomically(path, content)
        except OSError as error:
            raise _explain(path, error) from error


def _line(value: dict[str, Any], indent: int | None = None) -> bytes:
    return json.dumps(value, indent=indent, allow_nan=False).encode() + b"\n"


def _remove_empty(folders: list[Path]) -> None:
    """Children come before their parents; one that holds something stays."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _explain(path: Path, error: OSError) -> RunFolderError:
    reason = (error.strerror or str(error)).lower()
    return RunFolderError(f"{path} can't be written: {reason}; nothing was half-written there.")
