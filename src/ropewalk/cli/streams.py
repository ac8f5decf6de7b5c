"""stdout and stderr as a program meets them: closed, on a full disk, or with no reader at the other end.

Progress and log messages never stop work: what can't be written to stderr is dropped, ours and that of every
library. The result on stdout counts: where its reader has gone away (`| head`), the program ends with the
code that a shell reports for that, and says nothing; a full disk is an error like any other.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from ropewalk.cli.output import CLOSED_STDOUT_CODE


@contextmanager
def steady_streams() -> Iterator[None]:
    """Set both up for one command line, and leave them so that nothing is raised as the program ends."""
    _fill_closed_descriptors()
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Stdout(stdout), Stderr(stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        _settle(stdout)
        _settle(stderr)


class _Stream:
    """A text stream that may be None, as Python has it where its descriptor was closed from the beginning."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # e.g. in the locale C, or of a file name that is no UTF-8
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()


class Stderr(_Stream):
    """Drops what can't be written."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


class Stdout(_Stream):
    """Ends the program where its reader has gone away.

    Raises:
        typer.Exit: on writing, with `CLOSED_STDOUT_CODE`.
    """

    def write(self, text: str) -> int:
        with _ended_by_reader():
            return super().write(text)

    def flush(self) -> None:
        with _ended_by_reader():
            super().flush()


@contextmanager
def _ended_by_reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit(CLOSED_STDOUT_CODE) from None


def _fill_closed_descriptors() -> None:
    """Leave none of 0, 1 and 2 free: a journal would be opened as 2, and written to as stderr."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _settle(stream: Any) -> None:
    """Python flushes its streams once more as it ends; what can't be written then goes nowhere."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
