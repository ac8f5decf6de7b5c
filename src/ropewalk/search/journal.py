"""The journal of a search: one JSON line per trial, on disk as each ends. A killed search resumes from it.

    {"format": "ropewalk.journal", "version": 2, "identity": {...}, "environment": {...}, "checksum": "..."}
    {"index": 0, "kind": "trial", "candidate": {...}, "value": 9.5, "failure": null, ..., "checksum": "..."}
    {"index": 1, ...}
    {"kind": "resumed", "environment": {...}, "checksum": "..."}    where versions or machine differ

The first line is written together with the first trial. `store.json_lines` describes torn lines and
checksums; version 1 has no checksums. The journal is locked while it is open.
"""

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from ropewalk.errors import RunFolderError
from ropewalk.search.settings import as_text
from ropewalk.search.trial import Trial
from ropewalk.store import (
    ChecksummedLines,
    DamagedLine,
    LineFile,
    as_read,
    check_envelope,
    differences,
    disk_errors,
    envelope,
    read_bounded,
    require_same_run,
    whole_lines,
)
from ropewalk.store.json_lines import JsonObject

FORMAT, FORMAT_VERSION = "ropewalk.journal", 2
VERSIONS = (1, FORMAT_VERSION)  # a journal is continued in its own version
OPENING = f'{{"format": "{FORMAT}"'.encode()
LARGEST_BYTES = 2**30
HEADER = {"format", "version", "identity", "environment"}


class Journal:
    """The journal of one search; `begin` opens it, `close` (or the end of a `with` block) closes it.

    Args:
        path: the file.
        cut_damaged: whether to cut off a damaged line with all that follow it, and to resume from the rest.
        lock: false where the caller has locked the folder.

    Attributes:
        trials: the trials on disk, in order; `append` adds to them.
        generator_states: the state of the strategy's generator before each trial.
        environments: the versions and machine of each session that differs from the one before it.
    """

    def __init__(self, path: Path, *, cut_damaged: bool = False, lock: bool = True) -> None:
        self.path = path
        self.cut_damaged = cut_damaged
        self.trials: list[Trial] = []
        self.generator_states: list[JsonObject] = []
        self.environments: list[JsonObject] = []
        self._has_own_lock = lock
        self._file: LineFile | None = None
        self._pending: list[JsonObject] = []
        self._lines = ChecksummedLines(FORMAT_VERSION)
        # Of each trial that was read: where its line begins, and the checksums up to there.
        self._places: list[tuple[int, ChecksummedLines]] = []

    def begin(self, identity: JsonObject, environment: JsonObject) -> None:
        """Starts the journal, or resumes an existing one.

        Args:
            identity: everything that the search depends on; a journal of another identity is refused.
            environment: versions and machine; a change is recorded and warned of, because the last bits of
                values may differ.

        Raises:
            RunFolderError: in use, of another run, damaged, not writable, disk full.
        """
        assert self._file is None, "this journal is open"
        try:
            with self._disk_errors():
                self._file = LineFile(self.path, lock=self._has_own_lock)
                self._resume(self._file, as_read(identity), as_read(environment))
        except BaseException:
            self.close()
            raise

    def append(self, trial: Trial, generator_state: JsonObject) -> None:
        """Writes one trial to the disk.

        Raises:
            RunFolderError: it can't be written; the journal then ends with the trial before.
        """
        lines = self._lines.copy()
        content = b"".join(
            map(lines.write, [*self._pending, {**trial.as_dict(), "generator": generator_state}])
        )
        with self._disk_errors():
            self._open_file().append(content)
        self._lines, self._pending = lines, []
        self.trials.append(trial)
        self.generator_states.append(generator_state)

    def cut(self, index: int) -> None:
        """Removes a trial that `begin` read, with all that follow.

        Raises:
            RunFolderError: the file can't be written.
        """
        num_bytes, lines = self._places[index]
        with self._disk_errors():
            self._open_file().truncate(num_bytes)
        self._lines = lines.copy()
        del self.trials[index:], self.generator_states[index:], self._places[index:]

    def close(self) -> None:
        """Closes and unlocks the file; a journal without a trial is removed."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_file(self) -> LineFile:
        assert self._file is not None, "this journal is not open"
        return self._file

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            with disk_errors(self.path, RunFolderError):
                yield
        except RunFolderError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise RunFolderError(
                f"{self.path} can't grow, the disk is full: its {len(self.trials)} trials are safe; free "
                f"some space and resume with --resume."
            ) from cause

    # ---------------------------------------------------------------- reading

    def _resume(self, file: LineFile, identity: JsonObject, environment: JsonObject) -> None:
        content = file.read()
        self._require_journal(content)
        lines = whole_lines(content)
        num_good = sum(len(line) + 1 for line in lines)
        if lines:
            header = self._read_header(lines[0])
            require_same_run(self.path, identity, header["identity"], RunFolderError)
            num_good = self._read_trials(lines)
        if num_good < len(content):
            file.truncate(num_good)
        if not lines:
            self.environments = [environment]
            self._pending = [envelope(FORMAT, FORMAT_VERSION, identity=identity, environment=environment)]
        elif environment != self.environments[-1]:
            self._note_change(environment)

    def _require_journal(self, content: bytes) -> None:
        if not OPENING.startswith(content[: len(OPENING)]):
            raise RunFolderError(f"{self.path} is not a journal of Ropewalk: choose another folder.")

    def _note_change(self, environment: JsonObject) -> None:
        found = differences(environment, self.environments[-1])
        warnings.warn(
            f"{self.path} is resumed in another environment: {'; '.join(found)} there. Last bits of values "
            f"may differ, so the result may differ from that of an uninterrupted run.",
            stacklevel=2,
        )
        self._pending = [{"kind": "resumed", "environment": environment}]
        self.environments.append(environment)

    def _read_header(self, line: bytes) -> JsonObject:
        try:
            first = ChecksummedLines(version=1).read(line)
            remedy = "begin again in another folder"
            check_envelope(
                first, self.path, RunFolderError, formats=(FORMAT,), versions=VERSIONS, remedy=remedy
            )
            self._lines = ChecksummedLines(first["version"])
            header = _with_current_names(self._lines.read(line))
        except DamagedLine:
            header = {}
        is_whole = all(isinstance(header.get(name), dict) for name in ("identity", "environment"))
        if not is_whole or set(header) != HEADER:
            raise RunFolderError(
                f"{self.path}, line 1 is damaged, which identifies the run: begin again in another folder."
            )
        self.environments = [header["environment"]]
        return header

    def _read_trials(self, lines: list[bytes]) -> int:
        """Reads every line after the first; returns how many bytes are good, up to a damaged line."""
        num_bytes = len(lines[0]) + 1
        for number, line in enumerate(lines[1:], start=2):
            before = self._lines.copy()
            try:
                self._read_line(_with_current_names(self._lines.read(line)), (num_bytes, before))
            except ValueError:  # DamagedLine, or a trial that breaks a rule
                if not self.cut_damaged:
                    raise self._damaged(number, len(lines)) from None
                self._lines = before
                break
            num_bytes += len(line) + 1
        return num_bytes

    def _read_line(self, line: JsonObject, place: tuple[int, ChecksummedLines]) -> None:
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
            f"and measure what follows again, as after an interruption: the result is the same."
        )


def _with_current_names(line: JsonObject) -> JsonObject:
    """A line of an earlier version as this version writes it; the one place of former names and spellings.

    Racing: searches that could drop a candidate early wrote the racing error into their first line, and an
    estimate of its value into a dropped trial. A search without a dropped trial is resumed as any other; one
    with a dropped trial is refused at that trial.

    The attention factor was written as it was typed: 1.0 and 1.00 are 1 now.
    """
    line.pop("estimate", None)
    identity = line.get("identity")
    if isinstance(identity, dict):
        identity.pop("racing", None)
        with suppress(KeyError, TypeError, ValueError):  # longrope or search
            identity["attention_factor"] = as_text(float(identity["attention_factor"]))
    return line


def read_trials(path: Path) -> list[Trial]:
    """The trials of a journal that is not resumed, e.g. for a report.

    Raises:
        RunFolderError: missing, no journal, or damaged.
    """
    journal = Journal(path)
    with disk_errors(path, RunFolderError, action="read", remedy="name the folder of a run"):
        content = read_bounded(path, LARGEST_BYTES)
    journal._require_journal(content)
    lines = whole_lines(content)
    if lines:
        journal._read_header(lines[0])
        journal._read_trials(lines)
    return journal.trials
