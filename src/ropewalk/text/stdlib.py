"""The built-in corpus: the Python standard library's own source, on the user's machine.

Nothing is bundled and nothing is downloaded: the files that the running interpreter imports are the
text. `stdlib_splits.json` assigns every top-level module to one split, so that the bundled scale model
was never trained on what it is searched or reported on:

    train      the scale model has read it (its `test` suite and every package's tests as well); two files in
               it that are copies of held-out ones are no longer given (the scale model did read those two)
    search     what a search may look at
    held_out   what a report reads, never a search
    unread     tables and translations, not prose or code: `encodings`, `pydoc_data`, the `test` suite
"""

import json
import sysconfig
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

Split = Literal["train", "search", "held_out"]

# Of a module for training, but with a quarter and a third of their text in held-out `token` and `tokenize`.
COPIES_OF_HELD_OUT = frozenset({Path("lib2to3/pgen2/token.py"), Path("lib2to3/pgen2/tokenize.py")})
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})


@cache
def module_splits() -> dict[str, list[str]]:
    """The assignment, `{split: [top-level module, ...]}`, in the fixed order in which it is read."""
    text = (resources.files("ropewalk.text") / "stdlib_splits.json").read_text(encoding="utf-8")
    return {name: modules for name, modules in json.loads(text).items() if name != "about"}


def stdlib_folder() -> Path:
    """Where the running interpreter keeps its pure-Python library."""
    return Path(sysconfig.get_paths()["stdlib"])


def stdlib_files(split: Split, folder: Path | None = None) -> list[Path]:
    """Every source file of a split that this interpreter has, in a fixed order, without tests and copies."""
    folder = folder or stdlib_folder()
    files: list[Path] = []
    for module in module_splits()[split]:
        if (folder / module).is_dir():
            files += [f for f in sorted((folder / module).rglob("*.py")) if _is_read(f.relative_to(folder))]
        elif (folder / f"{module}.py").is_file():
            files.append(folder / f"{module}.py")
    return files


def _is_read(relative: Path) -> bool:
    return not is_test(relative) and relative not in COPIES_OF_HELD_OUT


def is_test(relative: Path) -> bool:
    """Whether a file, named relative to the library's folder, belongs to a test suite."""
    return not TEST_FOLDERS.isdisjoint(relative.parts[:-1])
