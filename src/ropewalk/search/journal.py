"""One JSON line a trial, on disk as each ends: what a killed run is resumed from.

    {"format": "ropewalk.journal", "version": 2, "identity": {...}, "environment": {...}, "checksum": "..."}
    {"index": 0, "kind": "trial", "candidate": {...}, "value": 9.5, "failure": null, ..., "checksum": "..."}
    {"index": 1, ...}
    {"kind": "resumed", "environment": {...}, "checksum": "..."}    where versions or machine differ

The opening is written with the first trial. A line counts once its newline is written; a torn last line,
from a kill in the middle, is cut off. The checksums (see `journal_lines`) tell a damaged line; version 1 had
none. The file is locked while it is open; the lock dies with the process.
"""

import errno
import fcntl
import json
import os
import stat
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from ropewalk.errors import RunFolderError, shown
from ropewalk.search.journal_lines import FORMAT_VERSION, VERSIONS, DamagedLine, JsonObject, Lines
from ropewalk.search.trial import Trial
from ropewalk.store import bring_to_disk, read_bounded

FORMAT = "ropewalk.journal"
OPENING = f'{{"format": "{FORMAT}"'.encode()
LARGEST_BYTES = 2**30
HEADER = {"format", "version", "identity", "environment"}

Compare = Callable[[JsonObject, JsonObject], list[str]]


class Journal:
    """The journal of one run; `begin` opens it, `close` (or `with`) gives it free.

    Args:
        path: of the file.
        cut_damaged: where a line is damaged, cut it off with all that follow, and resume from what is before.

    Attributes:
        trials: those on disk, in order; `append` adds to them.
        generator_states: what the strategy's generator was when each trial was asked for.
        environments: the versions and machine of each session that differed from the one before it.
    """

    def __init__(self, path: Path, *, cut_damaged: bool = False) -> None:
        self.path = path
        self.cut_damaged = cut_damaged
        self.trials: list[Trial] = []
        self.generator_states: list[JsonObject] = []
        self.environments: list[JsonObject] = []
        self._file: FileIO | None = None
        self._locked = False
        self._pending: list[JsonObject] = []
        self._lines = Lines()
        # Of each trial that was read: where its line begins, and the checksum of the line before.
        self._places: list[tuple[int, bytes]] = []

    def begin(self, identity: JsonObject, environment: JsonObject, *, compare: Compare | None = None) -> None:
        """Start the journal, or resume the one that is there.

        Args:
            identity: what the run is; a journal of another identity is refused.
            environment: versions and machine; a change is noted and warned of, because values may differ in a
                last bit.
            compare: gives what differs between two identities; `differing` by default.

        Raises:
            RunFolderError: in use, of another run, damaged, not writable, disk full.
        """
        assert self._file is None, "this journal is open"
        try:
            # Unbuffered: what could not be written must not be tried again at close.
            self._file = self.path.open("a+b", buffering=0)
            self._lock(self._file)
            self._resume(self._file, _as_read(identity), _as_read(environment), compare or differing)
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

    def cut(self, index: int) -> None:
        """Take away a trial that was read when the journal was begun, with all that follow.

        Raises:
            RunFolderError: the file can't be written.
        """
        assert self._file is not None, "this journal is not open"
        offset, checksum = self._places[index]
        try:
            self._file.truncate(offset)
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._explain(error) from error
        self._lines = Lines(self._lines.version, after=checksum)
        del self.trials[index:], self.generator_states[index:], self._places[index:]

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
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RunFolderError(f"{self.path} is a pipe or a device: choose another folder.")
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

    def _resume(self, file: FileIO, identity: JsonObject, environment: JsonObject, compare: Compare) -> None:
        file.seek(0)
        content = file.read()
        self._require_journal(content)
        lines = content.split(b"\n")[:-1]  # what is behind the last newline is torn
        whole = sum(len(line) + 1 for line in lines)
        if lines:
            self._read_header(lines[0], identity, compare)
            whole = self._read_trials(lines)
        if whole < len(content):
            file.truncate(whole)
            os.fsync(file.fileno())
        if not lines:
            self.environments = [environment]
            opening = {"format": FORMAT, "version": FORMAT_VERSION}
            self._pending = [{**opening, "identity": identity, "environment": environment}]
        elif environment != self.environments[-1]:
            self._note_change(environment)

    def _require_journal(self, content: bytes) -> None:
        if not OPENING.startswith(content[: len(OPENING)]):
            raise RunFolderError(f"{self.path} is not a journal of Ropewalk: choose another folder.")

    def _note_change(self, environment: JsonObject) -> None:
        differences = differing(environment, self.environments[-1])
        warnings.warn(
            f"{self.path} is resumed in another environment: {'; '.join(differences)} there. Last bits of "
            f"values may differ, so the result may not be that of an uninterrupted run.",
            stacklevel=2,
        )
        self._pending = [{"kind": "resumed", "environment": environment}]
        self.environments.append(environment)

    def _read_header(self, line: bytes, identity: JsonObject, compare: Compare) -> None:
        try:
            version = Lines(version=1).read(line).get("version")
            if version not in VERSIONS or isinstance(version, (bool, float)):
                raise RunFolderError(
                    f"{self.path} has format version {shown(version)}, but {FORMAT_VERSION} is known: resume "
                    f"it with the version of Ropewalk that began it."
                )
            self._lines = Lines(version)
            header = self._lines.read(line)
        except DamagedLine:
            header = {}
        is_whole = all(isinstance(header.get(name), dict) for name in ("identity", "environment"))
        if not is_whole or set(header) != HEADER:
            raise RunFolderError(
                f"{self.path}, line 1 is damaged, which says what the run is: begin again in another folder."
            )
        differences = compare(identity, header["identity"])
        if differences:
            raise RunFolderError(
                f"{self.path} holds another run: {'; '.join(differences)} there. "
                f"Go on with the settings it began with, or choose another folder."
            )
        self.environments = [header["environment"]]

    def _read_trials(self, lines: list[bytes]) -> int:
        """Read every line after the first; returns how many bytes are good, up to a damaged line."""
        num_bytes = len(lines[0]) + 1
        for number, line in enumerate(lines[1:], start=2):
            place = Lines(self._lines.version, after=self._lines.last)
            try:
                self._read_line(self._lines.read(line), (num_bytes, place.last))
            except ValueError:  # DamagedLine, or a trial that breaks a rule
                if not self.cut_damaged:
                    raise self._damaged(number, len(lines)) from None
                self._lines = place
                break
            num_bytes += len(line) + 1
        return num_bytes

    def _read_line(self, line: JsonObject, place: tuple[int, bytes]) -> None:
        if line.get("kind") == "resumed":
            if set(line) != {"kind", "environment"} or not isinstance(line["environment"], dict):
                raise DamagedLine
            self.environments.append(line["environment"])
            return
        state = line.pop("generator", None)
        trial = Trial.from_dict(line)
        if trial.index != len(self.trials) or not isinstance(state, dict):
            raise DamagedLine
        self.trials.append(trial)
        self.generator_states.append(state)
        self._places.append(place)

    def _damaged(self, number: int, num_lines: int) -> RunFolderError:
        return RunFolderError(
            f"{self.path}, line {number} of {num_lines} is damaged. Add --cut-damaged to cut it off there "
            f"and measure again what follows, as after an interruption: the result is the same."
        )

    def _write(self, *lines: JsonObject) -> None:
        file = self._file
        assert file is not None, "this journal is not open"
        end = file.seek(0, os.SEEK_END)
        written = Lines(self._lines.version, after=self._lines.last)
        content = b"".join(map(written.write, lines))
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
            if end == 0:
                bring_to_disk(self.path.parent)
            self._lines = written
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
        RunFolderError: missing, no journal, or damaged.
    """
    journal = Journal(path)
    try:
        content = read_bounded(path, LARGEST_BYTES)
    except OSError as error:
        raise RunFolderError(f"{path} can't be read: {error.strerror}: name a run's folder.") from None
    lines = content.split(b"\n")[:-1]
    journal._require_journal(content)
    if lines:
        journal._read_header(lines[0], {}, lambda ours, theirs: [])
        journal._read_trials(lines)
    return journal.trials


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
    return [] if ours == theirs else [f"{name:.100} is {_short(ours)} here, but {_short(theirs)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
