"""One JSON line a trial, on disk as each ends: what a killed run goes on from.

    {"format": "ropewalk.journal", "version": 1, "identity": {...}, "environment": {...}}
    {"index": 0, "kind": "trial", "candidate": {...}, "value": 9.5, "failure": null, "seconds": ..., ...}
    {"index": 1, ...}
    {"kind": "resumed", "environment": {...}}        only where versions or machine differ from before

The opening is written with the first trial. A line counts once its newline is written; a torn last line,
from a kill in the middle, is cut off. The file is locked while it is open; the lock dies with the process.
"""

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.files import bring_to_disk
from ropewalk.search.trial import Trial

FORMAT = "ropewalk.journal"
FORMAT_VERSION = 1
OPENING = f'{{"format": "{FORMAT}"'.encode()

JsonObject = dict[str, Any]


class Journal:
    """The journal of one run; `begin` opens it, `close` (or `with`) gives it free.

    Attributes:
        trials: those on disk, in order; `append` adds to them.
        generator_states: what the strategy's generator was when each trial was asked for.
        environments: the versions and machine of each session that differed from the one before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: list[Trial] = []
        self.generator_states: list[JsonObject] = []
        self.environments: list[JsonObject] = []
        self._file: FileIO | None = None
        self._locked = False
        self._pending: list[JsonObject] = []

    def begin(self, identity: JsonObject, environment: JsonObject) -> None:
        """Start the journal, or take up the one that is there.

        Args:
            identity: what the run is; a journal of another identity is refused.
            environment: versions and machine; a change is noted, because values may differ in a last bit.

        Raises:
            RunFolderError: in use, of another run, damaged, not writable, disk full.
        """
        assert self._file is None, "this journal is open"
        try:
            # Unbuffered: what could not be written must not be tried again at close.
            self._file = self.path.open("a+b", buffering=0)
            self._lock(self._file)
            self._take_up(self._file, _as_read(identity), _as_read(environment))
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise self._explain(error) from error
            raise

    def append(self, trial: Trial, generator_state: JsonObject) -> None:
        """Write one trial; when this returns, it is on the disk.

        Raises:
            RunFolderError: it can't be written; the journal then ends with the trial before.
        """
        self._write(*self._pending, {**trial.as_dict(), "generator": generator_state})
        self._pending = []
        self.trials.append(trial)
        self.generator_states.append(generator_state)

    def close(self) -> None:
        """Give the file free; one without a trial is removed."""
        if self._file is not None:
            if self._locked and self._file.seek(0, os.SEEK_END) == 0:
                self.path.unlink(missing_ok=True)
            self._locked = False
            self._file.close()
            self._file = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self, file: FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held the lock before may have removed the file; another process may have made a new one.
            self._locked = os.fstat(file.fileno()).st_nlink > 0
        except BlockingIOError:
            self._locked = False
        if not self._locked:
            raise RunFolderError(
                f"{self.path} is in use by another process: wait until it ends, or choose another folder."
            )

    def _take_up(self, file: FileIO, identity: JsonObject, environment: JsonObject) -> None:
        file.seek(0)
        content = file.read()
        if not OPENING.startswith(content[: len(OPENING)]):
            raise RunFolderError(f"{self.path} is not a journal of Ropewalk: choose another folder.")
        num_whole = content.rfind(b"\n") + 1
        if num_whole < len(content):
            file.truncate(num_whole)
            os.fsync(file.fileno())
        lines = content[:num_whole].splitlines()
        if not lines:
            self.environments = [environment]
            opening = {"format": FORMAT, "version": FORMAT_VERSION}
            self._pending = [{**opening, "identity": identity, "environment": environment}]
            return
        self._read_header(self._parse(lines[0], 1), identity)
        for number, line in enumerate(lines[1:], start=2):
            self._read_line(self._parse(line, number), number)
        if environment != self.environments[-1]:
            self._pending = [{"kind": "resumed", "environment": environment}]
            self.environments.append(environment)

    def _read_header(self, header: JsonObject, identity: JsonObject) -> None:
        if header.get("version") != FORMAT_VERSION:
            raise RunFolderError(
                f"{self.path} has format version {header.get('version')!r}, but {FORMAT_VERSION} is known: "
                f"go on with the version of Ropewalk that began it."
            )
        differences = differing(identity, header["identity"])
        if differences:
            raise RunFolderError(
                f"{self.path} holds another run: {'; '.join(differences)} there. "
                f"Go on with the settings it began with, or choose another folder."
            )
        self.environments = [header["environment"]]

    def _read_line(self, line: JsonObject, number: int) -> None:
        try:
            if line["kind"] == "resumed":
                self.environments.append(line["environment"])
                return
            trial, state = Trial.from_dict(line), line["generator"]
        except (KeyError, TypeError, AssertionError):
            raise self._damaged(number) from None
        if trial.index != len(self.trials):
            raise self._damaged(number)
        self.trials.append(trial)
        self.generator_states.append(state)

    def _parse(self, line: bytes, number: int) -> JsonObject:
        try:
            parsed = json.loads(line)
        except ValueError:
            raise self._damaged(number) from None
        if not isinstance(parsed, dict):
            raise self._damaged(number)
        return parsed

    def _damaged(self, number: int) -> RunFolderError:
        return RunFolderError(
            f"{self.path}, line {number} is damaged, so the run can't go on: begin anew in another folder."
        )

    def _write(self, *lines: JsonObject) -> None:
        file = self._file
        assert file is not None, "this journal is not open"
        end = file.seek(0, os.SEEK_END)
        content = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
            if end == 0:
                bring_to_disk(self.path.parent)
        except OSError as error:
            with suppress(OSError):  # what stays is cut off when the run goes on
                file.truncate(end)
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> RunFolderError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return RunFolderError(
                f"{self.path} can't grow, the disk is full: its {len(self.trials)} trials are safe; "
                f"free some room and go on with --resume."
            )
        return RunFolderError(f"{self.path} can't be written: {error.strerror or error}.")


def read_trials(path: Path) -> list[Trial]:
    """The trials of a journal that is not gone on with, e.g. for a report.

    Raises:
        RunFolderError: missing, or no whole journal.
    """
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        return [Trial.from_dict(line) for line in lines if "index" in line]
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise RunFolderError(f"{path} is no journal that can be read whole: name a run's folder.") from None


def _as_read(given: JsonObject) -> JsonObject:
    """As it comes back from a file: tuples are lists there."""
    read: JsonObject = json.loads(json.dumps(given))
    return read


def differing(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """Every value that differs between two nested JSON objects, as `name is OURS here, but THEIRS`."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        return [
            line
            for key in keys
            for line in differing(ours.get(key), theirs.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if ours == theirs else [f"{name} is {_short(ours)} here, but {_short(theirs)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
