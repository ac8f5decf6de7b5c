"""Pages of the documentation: their blocks of code, and how a block is run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of one language on a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def shortened(program: str, changes: dict[str, str]) -> str:
    """A program with values that need less time; each must be on the page exactly once."""
    for long, short in changes.items():
        assert program.count(long) == 1, long
        program = program.replace(long, short)
    return program


def run_python(program: str, folder: Path) -> None:
    """Run a program of a page; warnings are errors."""
    _run(["-W", "error", "-c", program], folder)


def run_commands(page: str, folder: Path, shorter: dict[str, list[str]] | None = None) -> list[str]:
    """Run every command of a page in its order, and return the commands.

    Args:
        shorter: a command to `--set` values with which it needs less time; each must be on the page.
    """
    left = dict(shorter or {})
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "ropewalk"
        changes = left.pop(shlex.join([program, *arguments]), [])
        arguments += [word for change in changes for word in ("--set", change)]
        assert _run(["-m", "ropewalk", *arguments], folder).strip(), line
    assert not left
    return lines


def _run(arguments: list[str], folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{arguments}\n{result.stdout}{result.stderr}"
    return result.stdout
