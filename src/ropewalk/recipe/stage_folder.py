"""StageFolder: the folder of one stage of a recipe's run, and the names of its files.

stages/01-search-8x/
├── inputs.json                  what the stage was begun with
├── journal.jsonl, factors.json  of a search; of readjustment one each per length
├── training/                    of fine-tuning: its checkpoints, and its model
├── start/                       of external training: the checkpoint to start from
├── records.jsonl                of an evaluation
├── passkey-answers.jsonl        the answer to each passkey prompt
├── retrieval-answers.jsonl      the answer to each question about a fact
└── done.json                    what the stage made, with hashes; written last
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.answers import Answer
from ropewalk.evaluate.records import EvalRecord
from ropewalk.search.journal import Journal
from ropewalk.store import (
    as_read,
    atomic_folder,
    clear_partials,
    describe_file,
    disk_errors,
    envelope,
    hash_json,
    make_folder,
    read_document,
    read_lines,
    require_same_run,
    write_document,
    write_file,
    write_lines,
)

FORMAT, FORMAT_VERSION = "ropewalk.stage", 1


class StageFolder:
    """One stage's folder, which the lock on the run's folder covers.

    Args:
        path: the folder; it does not exist before `begin`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def training_path(self) -> Path:
        return self.path / "training"

    @property
    def model_path(self) -> Path:
        """The trained model of a fine-tuning stage."""
        return self.training_path / "model"

    @property
    def start_path(self) -> Path:
        return self.path / "start"

    @property
    def records_path(self) -> Path:
        return self.path / "records.jsonl"

    def answers_path(self, kind: type[Answer]) -> Path:
        """Of the answers of one class."""
        return self.path / f"{kind.METRIC}-answers.jsonl"

    @property
    def done_path(self) -> Path:
        return self.path / "done.json"

    @property
    def inputs_path(self) -> Path:
        return self.path / "inputs.json"

    def journal_path(self, length: int | None = None) -> Path:
        """Of the search, or of readjustment at one length."""
        return self.path / ("journal.jsonl" if length is None else f"journal-{length}.jsonl")

    def journal(self, length: int | None = None, *, cut_damaged: bool = False) -> Journal:
        """The journal at `journal_path`, not begun."""
        return Journal(self.journal_path(length), cut_damaged=cut_damaged, lock=False)

    def factors_path(self, length: int | None = None) -> Path:
        """Of the search, or of readjustment at one length."""
        return self.path / ("factors.json" if length is None else f"factors-{length}.json")

    def begin(self, inputs: Mapping[str, Any]) -> None:
        """Begins the stage, or resumes it; it must have begun with the same inputs.

        Files that a killed process left half-written are removed.

        Raises:
            RunFolderError: it began with others, or it can't be written.
        """
        with disk_errors(self.path, RunFolderError):
            clear_partials(self.path)
        if self.inputs_path.is_file():
            remedy = f"remove {self.path} to repeat the stage"
            begun = read_document(self.inputs_path, RunFolderError, file_format=FORMAT, remedy=remedy)
            require_same_run(self.path, inputs, begun.get("inputs"), RunFolderError)
            return
        make_folder(self.path)
        write_document(self.inputs_path, envelope(FORMAT, FORMAT_VERSION, inputs=as_read(inputs)))

    def finish(self, outputs: Iterable[Path], **made: Any) -> None:
        """Records that the stage is complete.

        Args:
            outputs: the files in the folder that are its result.
            made: what else later stages need, as JSON values.

        Raises:
            RunFolderError: it can't be written.
        """
        files = {str(path.relative_to(self.path)): describe_file(path) for path in sorted(outputs)}
        document = envelope(FORMAT, FORMAT_VERSION, outputs=files, made=made)
        write_document(self.done_path, {**document, "checksum": hash_json(document)})

    def done(self) -> dict[str, Any] | None:
        """The `made` of `finish`, if the stage is complete and its outputs have not changed.

        None also where that can't be read: the stage then runs again, from the files that it left.
        """
        found = self._read_done()
        if any(describe_file(self.path / name) != content for name, content in found["outputs"].items()):
            return None
        made: dict[str, Any] | None = found["made"]
        return made

    def made(self) -> Any:
        """The `made` of `finish`, whatever happened to the outputs; None where the stage is not complete.

        Raises:
            RunFolderError: it can't be read.
        """
        if not self.done_path.is_file():
            return None
        return read_document(
            self.done_path, RunFolderError, file_format=FORMAT, remedy="begin again in another folder"
        )["made"]

    def _read_done(self) -> dict[str, Any]:
        """Outputs and `made`; no outputs and None where the file is missing or damaged."""
        nothing: dict[str, Any] = {"outputs": {}, "made": None}
        try:
            found = read_document(
                self.done_path, RunFolderError, file_format=FORMAT, remedy="repeat the stage"
            )
        except RunFolderError:
            return nothing
        checksum = found.pop("checksum", None)  # the first stages that 0.1.0 wrote have none
        is_whole = isinstance(found.get("outputs"), dict) and isinstance(found.get("made"), dict)
        return found if is_whole and checksum in (None, hash_json(found)) else nothing

    def write(self, path: Path, content: str) -> None:
        """Writes a file of the stage, complete or not at all.

        Raises:
            RunFolderError: it can't be written.
        """
        write_file(path, content.encode())

    @contextmanager
    def writing_start(self) -> Iterator[Path]:
        """A folder to fill, which becomes `start_path` at the end of the `with` block.

        Raises:
            RunFolderError: it can't be written.
        """
        with disk_errors(self.start_path, RunFolderError), atomic_folder(self.start_path) as partial:
            yield partial

    def write_records(self, records: Iterable[EvalRecord]) -> None:
        """Writes measurements; they replace those of an earlier call."""
        write_lines(self.records_path, (record.as_json() for record in records))

    def read_records(self) -> list[EvalRecord]:
        """The measurements; none if there are none, if they can't be read, or if they were changed."""
        finished = self._read_done()["outputs"].get(self.records_path.name)
        if finished is not None and finished != describe_file(self.records_path):
            return []
        return _lines_or_none(self.records_path, EvalRecord.from_json)

    def write_answers(self, kind: type[Answer], answers: Iterable[Answer]) -> None:
        """Writes the answers of one class, each of which may have taken minutes."""
        write_lines(self.answers_path(kind), (answer.as_json() for answer in answers))

    def read_answers(self, kind: type[Answer]) -> list[Answer]:
        """The answers of one class; none if there are none, or if they can't be read."""
        return _lines_or_none(self.answers_path(kind), kind.from_json)


def _lines_or_none(path: Path, make: Any) -> list[Any]:
    """As `read_lines`; an evaluation makes again what can't be read."""
    try:
        return read_lines(path, make)
    except RunFolderError:
        return []
