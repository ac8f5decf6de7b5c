"""The built-in corpus: the source code of the running interpreter's standard library.

Nothing is bundled or downloaded. `stdlib_splits.json` assigns every top-level module to one split, so that
the bundled scale model was never trained on a text that it is searched or evaluated on:

    train      the training data of the scale model, which also read the test suites; two files that copy
               held-out ones are left out here, though the scale model did read them
    search     for searches
    held_out   for evaluations, never for searches; with CPython 3.11 six documents of 131072 tokens
    unread     tables and translations instead of prose or code: `encodings`, `pydoc_data`, the `test` suite
"""

import json
import sysconfig
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

Split = Literal["train", "search", "held_out"]

# Files for training of which a quarter and a third are also in held-out `token` and `tokenize`.
COPIES_OF_HELD_OUT = frozenset({Path("lib2to3/pgen2/token.py"), Path("lib2to3/pgen2/tokenize.py")})
TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})


@cache
def module_splits() -> dict[str, list[str]]:
    """Returns `{split: [top-level module, ...]}`, in the fixed order in which modules are read."""
    text = (resources.files("ropewalk.text") / "stdlib_splits.json").read_text(encoding="utf-8")
    return {name: modules for name, modules in json.loads(text).items() if name != "about"}


def stdlib_folder() -> Path:
    """Returns the folder of the running interpreter's pure-Python library."""
    return Path(sysconfig.get_paths()["stdlib"])


def stdlib_files(split: Split, folder: Path | None = None) -> list[Path]:
    """Returns every source file of a split in a fixed order, without tests and copies.

    Args:
        folder: the library; by default the running interpreter's. It may lack some modules.
    """
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
    """Returns whether a file belongs to a test suite. The path is relative to the library's folder."""
    return not TEST_FOLDERS.isdisjoint(relative.parts[:-1])
