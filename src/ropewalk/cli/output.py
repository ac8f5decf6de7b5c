"""What is said, and where: the result on stdout, the story on stderr.

Text of users, files and servers (names, keys, errors) is never read as markup. Control characters of theirs
are escaped, and passwords and keys hidden, before anything is printed.
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
CLOSED_STDOUT_CODE = 141  # what a shell reports for a program that SIGPIPE ended
PIPED_WIDTH = 200  # columns where stdout is no terminal: nothing folds a table there


def say(message: str) -> None:
    """One line of the story; line feeds at its ends are layout, those within come from elsewhere."""
    line = message.strip("\n")
    before, _, after = message.partition(line) if line else (message, "", "")
    print(f"{before}{one_line(line)}{after}", file=sys.stderr, flush=True)


def one_line(text: object) -> str:
    """Text of a user's, a file's or a server's, as it stands within a line."""
    return escaped(redacted(str(text)))


def complain(message: str) -> None:
    """One line about what went wrong, whatever the message holds."""
    say("ropewalk: " + " ".join(message.split()))


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """Turn Ctrl-C into a line that says how to go on, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nInterrupted. {how_to_go_on}")
        raise typer.Exit(INTERRUPTED_CODE) from None


def result(text: str) -> None:
    """Print to stdout."""
    print(escaped(redacted(text), keep="\n\t"), flush=True)


def result_json(records: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Print the one object of `--json`; a number that JSON can't hold is null."""
    result(json.dumps(_finite({"records": list(records), **more}), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A title and an aligned table as text, the first column to the left and the others to the right."""
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
    """`1.3 s`, `42 s`, `3:07 min`, `2:05 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
