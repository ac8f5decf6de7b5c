"""Output: the result goes to stdout, progress and messages to stderr.

Text of users, files and servers (names, keys, errors) is never interpreted as markup. Before printing,
control characters are escaped, and passwords and keys replaced.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from ropewalk.sanitize import escaped, redacted

INTERRUPTED_CODE = 130
CLOSED_STDOUT_CODE = 141  # a shell reports this code for a program that SIGPIPE ended
PIPED_WIDTH = 200  # columns of a table if stdout is not a terminal


def say(message: str) -> None:
    """Prints one line to stderr. Line feeds at its ends are kept as layout, those within it are escaped."""
    line = message.strip("\n")
    before, _, after = message.partition(line) if line else (message, "", "")
    print(f"{before}{one_line(line)}{after}", file=sys.stderr, flush=True)


def one_line(text: object) -> str:
    """Returns text of a user, a file or a server in a form that is safe within a line."""
    return escaped(redacted(str(text)))


def complain(message: str) -> None:
    """Prints an error message to stderr as one line that begins with `ropewalk:`."""
    say("ropewalk: " + " ".join(message.split()))


@contextmanager
def interruptible(how_to_continue: str) -> Iterator[None]:
    """Turns Ctrl-C into a line that says how to continue, and exit code 130.

    Raises:
        typer.Exit: on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nInterrupted. {how_to_continue}")
        raise typer.Exit(INTERRUPTED_CODE) from None


def result(text: str) -> None:
    """Prints text, which may have several lines, to stdout."""
    print(escaped(redacted(text), keep="\n\t"), flush=True)


def result_json(records: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Prints the object of `--json` to stdout; NaN and infinity become null."""
    result(json.dumps(_finite({"records": list(records), **more}), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a title and a table as text; the first column is aligned left, the others right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for index, column in enumerate(columns):
        drawn.add_column(Text(one_line(column)), justify="right" if index else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(one_line(cell)) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join([one_line(title), *(line.rstrip() for line in capture.get().splitlines()), ""])


def clock(seconds: float) -> str:
    """Returns a duration as `1.3 s`, `42 s`, `3:07 min` or `2:05 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
