"""stdout and stderr that are closed, on a full disk, or piped to a program that has ended.

Progress and log messages never stop a command: text that can't be written to stderr is dropped, also that of
libraries. The result on stdout matters: if its reader has ended (`| head`), the program ends silently with
the exit code that a shell expects. A full disk is an error.
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
    """Wraps both streams for one command, and leaves them so that Python can flush them at its end."""
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
    """A text stream, or None: Python's value for a stream whose descriptor was closed at its start."""

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
            except UnicodeEncodeError:  # e.g. in the locale C, or for a file name that is not UTF-8
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._stream.flush()


class Stderr(_Stream):
    """Drops text that can't be written."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            super().flush()


class Stdout(_Stream):
    """Ends the program if the reader of stdout has ended.

    Raises:
        typer.Exit: on writing or flushing, with `CLOSED_STDOUT_CODE`.
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
    """Opens the descriptors 0, 1 and 2 if they are closed; else a journal could be opened as 2, stderr."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _settle(stream: Any) -> None:
    """Flushes a stream. If that fails, text that is left goes to the null device when Python flushes it."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
