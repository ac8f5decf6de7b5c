"""The file of a measurement: answers and records, on disk as each ends. A killed measurement resumes from it.

    {"format": "ropewalk.answers", "version": 1, "identity": {...}, "checksum": "..."}
    {"answer": {"factors": "yarn", "length": 2048, "number": 0, ...}, "checksum": "..."}
    {"record": {"metric": "retrieval", "factors": "yarn", "length": 2048, ...}, "checksum": "..."}

The first line is written together with the first answer. `store.json_lines` describes torn lines and
checksums. The file is locked while it is open.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.answers import Answer, AnswerProgress
from ropewalk.evaluate.records import EvalRecord
from ropewalk.store import (
    ChecksummedLines,
    DamagedLine,
    LineFile,
    as_read,
    check_envelope,
    disk_errors,
    envelope,
    require_same_run,
    whole_lines,
)

FORMAT, FORMAT_VERSION = "ropewalk.answers", 1
OPENING = f'{{"format": "{FORMAT}"'.encode()


class AnswerFile(Generic[Answer]):
    """The answers and records of one measurement, for a `with` block.

    Example:
        with AnswerFile(Path("answers.jsonl"), RetrievalAnswer, identity) as file:
            measure_retrieval(
                model, documents, [2048], factors=factors, answered=file.answers, on_answer=file.add_answer,
                on_record=file.add_record,
            )
        file.records

    Args:
        path: the file; None keeps answers and records in memory only.
        kind: the class of the answers.
        identity: everything that the answers depend on, as JSON values.

    Attributes:
        answers: those on disk, when it was opened.
        records: all so far.

    Raises:
        RunFolderError: the file is of another measurement, another file, damaged, in use, or not writable.
    """

    def __init__(self, path: Path | None, kind: type[Answer], identity: Mapping[str, Any]) -> None:
        self.answers: list[Answer] = []
        self.records: list[EvalRecord] = []
        self._path = path
        self._kind: type[Answer] = kind
        self._lines = ChecksummedLines()
        self._pending = [envelope(FORMAT, FORMAT_VERSION, identity=as_read(identity))]
        self._file: LineFile | None = None
        if path is None:
            return
        try:
            with disk_errors(path, RunFolderError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = LineFile(path)
                self._resume(path, self._file)
        except BaseException:
            self.close()
            raise

    def add_answer(self, progress: AnswerProgress[Any]) -> None:
        """Writes the latest answer to the disk; for `on_answer`.

        Raises:
            RunFolderError: it can't be written.
        """
        self._append({"answer": progress.answer.as_json()})

    def add_record(self, record: EvalRecord) -> None:
        """Keeps a record; for `on_record`. One that the file has stays, with the time that it took.

        Raises:
            RunFolderError: it can't be written.
        """
        key = record.factors, record.length
        if key not in {(known.factors, known.length) for known in self.records}:
            self._append({"record": record.as_json()})
            self.records.append(record)

    def close(self) -> None:
        """Closes and unlocks the file; one without an answer is removed."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "AnswerFile[Answer]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: dict[str, Any]) -> None:
        if self._file is None or self._path is None:
            return
        lines = self._lines.copy()
        content = b"".join(map(lines.write, [*self._pending, line]))
        with disk_errors(self._path, RunFolderError):
            self._file.append(content)
        self._lines, self._pending = lines, []

    def _resume(self, path: Path, file: LineFile) -> None:
        """Reads every whole line, and cuts off a torn one."""
        content = file.read()
        if not OPENING.startswith(content[: len(OPENING)]):
            raise RunFolderError(f"{path} has no answers of Ropewalk: name another file.")
        lines = whole_lines(content)
        for number, line in enumerate(lines, start=1):
            try:
                self._read(path, self._lines.read(line))
            except ValueError as error:  # DamagedLine, or a line of another form
                if isinstance(error, RunFolderError):
                    raise
                raise RunFolderError(
                    f"{path}, line {number} of {len(lines)} is damaged: name another file, or remove this "
                    f"one to measure again."
                ) from None
        num_whole = sum(len(line) + 1 for line in lines)
        if num_whole < len(content):
            file.truncate(num_whole)

    def _read(self, path: Path, line: dict[str, Any]) -> None:
        if self._pending:  # the first line
            check_envelope(line, path, RunFolderError, formats=(FORMAT,), remedy="name another file")
            require_same_run(path, self._pending[0]["identity"], line.get("identity"), RunFolderError)
            self._pending = []
        elif set(line) == {"answer"}:
            self.answers.append(self._kind.from_json(line["answer"]))
        elif set(line) == {"record"}:
            self.records.append(EvalRecord.from_json(line["record"]))
        else:
            raise DamagedLine
