"""RunFolder and PipelineFolder: the only place that knows file names inside a run's folder.

runs/my-model/                       of a search
├── journal.jsonl                    every trial, as it ended
├── factors.json                     the best
├── factors-no-start-tokens.json     the best with n-hat 0
├── run.json                         what was run, and the result in short
├── records.jsonl                    measurements, one a line
└── *.png                            figures

runs/quick/                          of a recipe (`ropewalk extend`)
├── recipe.json                      what is run; another recipe is refused
├── stages/01-search-8x/             a folder a stage:
│   ├── inputs.json                  what it was begun with
│   ├── journal.jsonl, factors.json  of a search; of readjustment one each a length
│   ├── training/                    of a fine-tuning: its checkpoints, and its model
│   ├── start/                       of external training: the checkpoint to start from
│   ├── records.jsonl                of an evaluation
│   └── done.json                    what it made, with hashes; written last
├── result/                          the checkpoint, if one was tuned, and factors.json: the factor set
└── result.json                      records, limits and verdicts
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factor_set import FACTORS_NAME
from ropewalk.files import write_atomically
from ropewalk.search.journal import Journal, differing
from ropewalk.search.search import SearchResult

FORMAT = "ropewalk.run"
STAGE_FORMAT = "ropewalk.stage"
FORMAT_VERSION = 1
LARGEST_HASHED_BYTES = 64 * 2**20  # of a larger output, a checkpoint's weights, only the size is compared


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
        return cls(path, _make_folder(path))

    def _present(self) -> list[str]:
        return _present(self.path)

    def _require_empty(self, present: list[str]) -> None:
        _require_empty(self.path, present)

    def _write(self, path: Path, content: bytes) -> None:
        _write(path, content)


class PipelineFolder:
    """The folder of a recipe's run; `open` makes or takes up one, and locks it until `close` (or `with`).

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, lock: Any) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, identity: Mapping[str, Any]) -> "PipelineFolder":
        """The folder of a run of this recipe: a new or an empty one, or one in which it was begun.

        Args:
            identity: the recipe, as JSON values.

        Raises:
            RunFolderError: it holds another recipe's run or other files, is in use, is no folder, or can't be
                written.
        """
        path = Path(path)
        _make_folder(path)
        folder = cls(path, _locked(path / ".lock", path))
        try:
            folder._take_up(json.loads(json.dumps(identity)))
        except BaseException:
            folder.close()
            raise
        return folder

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.json"

    @property
    def result_path(self) -> Path:
        """The folder of what comes out."""
        return self.path / "result"

    @property
    def result_factors_path(self) -> Path:
        return self.result_path / FACTORS_NAME

    @property
    def summary_path(self) -> Path:
        return self.path / "result.json"

    def stage(self, index: int, name: str) -> "StageFolder":
        """A stage's folder; it is made when the stage begins."""
        return StageFolder(self.path / "stages" / f"{index + 1:02d}-{name}")

    def write_result(self, checkpoint: Path | None, factors: str) -> None:
        """Put the checkpoint (linked, not copied, where that can be) and the factor set into `result`.

        Raises:
            RunFolderError: it can't be written.
        """
        try:
            shutil.rmtree(self.result_path, ignore_errors=True)
            if checkpoint is None:
                self.result_path.mkdir()
            else:
                shutil.copytree(checkpoint, self.result_path, copy_function=_link_or_copy)
                self.result_factors_path.unlink(missing_ok=True)  # never written through a link
        except OSError as error:
            raise _explain(self.result_path, error) from error
        _write(self.result_factors_path, factors.encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the run in short.

        Raises:
            RunFolderError: it can't be written.
        """
        _write(self.summary_path, _line(dict(summary), indent=2))

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    def __enter__(self) -> "PipelineFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_up(self, identity: dict[str, Any]) -> None:
        present = [name for name in _present(self.path) if name != ".lock"]
        if self.recipe_path.name not in present:
            _require_empty(self.path, present)
            document = {"format": FORMAT, "version": FORMAT_VERSION, "recipe": identity}
            _write(self.recipe_path, _line(document, indent=2))
            return
        differences = differing(identity, _read(self.recipe_path).get("recipe"))
        if differences:
            raise RunFolderError(
                f"{self.path} holds a run of another recipe: {'; '.join(differences)} there. Go on with the "
                f"recipe that it was begun with, or choose another folder."
            )


class StageFolder:
    """One stage's folder.

    Attributes:
        path: the folder; it is not there before `begin`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def training_path(self) -> Path:
        return self.path / "training"

    @property
    def model_path(self) -> Path:
        """The tuned model, where a fine-tuning leaves it."""
        return self.training_path / "model"

    @property
    def start_path(self) -> Path:
        return self.path / "start"

    @property
    def records_path(self) -> Path:
        return self.path / "records.jsonl"

    @property
    def done_path(self) -> Path:
        return self.path / "done.json"

    @property
    def inputs_path(self) -> Path:
        return self.path / "inputs.json"

    def journal_path(self, length: int | None = None) -> Path:
        """Of the search, or of readjustment at one length."""
        return self.path / ("journal.jsonl" if length is None else f"journal-{length}.jsonl")

    def factors_path(self, length: int | None = None) -> Path:
        """Of the search, or of readjustment at one length."""
        return self.path / ("factors.json" if length is None else f"factors-{length}.json")

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Begin the stage, or go on with it; it must have been begun with the same inputs.

        Raises:
            RunFolderError: with others, or it can't be written.
        """
        as_read = json.loads(json.dumps(inputs))
        if self.inputs_path.is_file():
            differences = differing(as_read, _read(self.inputs_path).get("inputs"))
            if differences:
                raise RunFolderError(
                    f"{self.path} was begun with other inputs: {'; '.join(differences)} there. Give it those "
                    f"again, or choose another folder for the run."
                )
            return
        _make_folder(self.path)
        document = {"format": STAGE_FORMAT, "version": FORMAT_VERSION, "inputs": as_read}
        _write(self.inputs_path, _line(document, indent=2))

    def finish(self, outputs: Iterable[Path], **made: Any) -> None:
        """Note that the stage is complete, and what lies there as its result.

        Args:
            outputs: files within the folder.
            made: what else later stages need, as JSON values.

        Raises:
            RunFolderError: it can't be written.
        """
        files = {str(path.relative_to(self.path)): _content(path) for path in sorted(outputs)}
        document = {"format": STAGE_FORMAT, "version": FORMAT_VERSION, "outputs": files, "made": made}
        _write(self.done_path, _line(document, indent=2))

    def done(self) -> dict[str, Any] | None:
        """What `finish` was given, if the stage is complete and its outputs are still what they were."""
        if not self.done_path.is_file():
            return None
        found = _read(self.done_path)
        if any(_content(self.path / name) != content for name, content in found["outputs"].items()):
            return None
        made: dict[str, Any] = found["made"]
        return made

    def write(self, path: Path, content: str) -> None:
        """Write a file of the stage whole or not at all.

        Raises:
            RunFolderError: it can't be written.
        """
        _write(path, content.encode())

    @contextmanager
    def writing_start(self) -> Iterator[Path]:
        """A folder that becomes `start_path` when all is written.

        Raises:
            RunFolderError: it can't be written.
        """
        partial = self.path / ".start.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            yield partial
            partial.rename(self.start_path)
        except OSError as error:
            raise _explain(self.start_path, error) from error

    def write_records(self, records: Iterable[EvalRecord]) -> None:
        """As `RunFolder.write_records`."""
        _write(self.records_path, b"".join(_line(record.as_json()) for record in records))

    def read_records(self) -> list[EvalRecord]:
        """Those that were written; none if there are none, or if they can't be read."""
        try:
            lines = self.records_path.read_bytes().splitlines()
            return [EvalRecord.from_json(json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError):
            return []


def _make_folder(path: Path) -> list[Path]:
    """A folder that can be written, and the folders that were made for it, children first.

    Raises:
        RunFolderError: it is a file, or can't be made or written.
    """
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
        raise RunFolderError(f"{path} may not be written: change its permissions, or choose another folder.")
    return made


def _present(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise _explain(path, error) from error


def _require_empty(path: Path, present: list[str]) -> None:
    if present:
        names = ", ".join(present[:3]) + (" ..." if present[3:] else "")
        raise RunFolderError(f"{path} holds other files ({names}): choose a new or an empty folder.")


def _locked(path: Path, folder: Path) -> Any:
    """A file whose lock dies with the process."""
    try:
        file = path.open("a+b")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    except BlockingIOError:
        file.close()
        raise RunFolderError(
            f"{folder} is in use by another process: wait until it ends, or choose another folder."
        ) from None
    except OSError as error:
        raise _explain(path, error) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        assert isinstance(document, dict), document
        return document
    except (OSError, ValueError, AssertionError):
        raise RunFolderError(f"{path} can't be read: begin anew in another folder.") from None


def _content(path: Path) -> dict[str, Any] | None:
    """What a file holds, in short; None where it is not there."""
    try:
        size = path.stat().st_size
        if size > LARGEST_HASHED_BYTES:
            return {"bytes": size}
        return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        return None


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _write(path: Path, content: bytes) -> None:
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
