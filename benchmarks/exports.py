"""Ropewalk's command line, run as a user runs it, and what `verify` answers."""

import subprocess
import sys
from typing import Any


def ropewalk(*arguments: str) -> str:
    """What a command says on stdout; a mismatch's exit code is an answer like any other."""
    command = [sys.executable, "-m", "ropewalk", *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not process.stdout.strip():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode} and said nothing.")
    return process.stdout


def largest(found: dict[str, Any], what: str) -> str:
    """The largest extra difference of a kind, over all lengths, in `verify --json`."""
    values = [check["found"] for check in found["checks"] if check["what"] == what]
    return f"{max(values):.1e}" if values else "-"
