"""The files of a folder or of a pattern, whatever lies there: links in circles, pipes, devices, sockets."""

import errno
import glob
import os
import stat
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path

EVERYWHERE = "**"


def files_below(folder: Path) -> list[Path]:
    """Every regular file below a folder, sorted by path; folders that are links are not entered.

    Raises:
        OSError: a folder can't be read.
    """
    found = [Path(place, name) for place, _, names in os.walk(folder, onerror=_raise) for name in names]
    return sorted(filter(_is_regular, found))


def files_matching(pattern: str) -> list[Path]:
    """Every regular file that a pattern names, as the module `glob` has it, sorted by path.

    `**` follows links to folders, but enters no folder twice: a link to a parent leads nowhere new.

    Raises:
        OSError: a folder can't be read.
    """
    path = Path(pattern)
    return sorted(filter(_is_regular, set(_expand(Path(path.anchor), path.relative_to(path.anchor).parts))))


def _expand(base: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Every path that the rest of a pattern names from `base` on."""
    plain = tuple(takewhile(lambda part: not glob.has_magic(part), parts))
    base, parts = base.joinpath(*plain), parts[len(plain) :]
    if not parts:
        yield base
    elif parts[0] == EVERYWHERE:
        rest = tuple(dropwhile(lambda part: part == EVERYWHERE, parts))
        for folder in _folders(base):
            yield from _expand(folder, rest or ("*",))
    else:
        for name in glob.glob(parts[0], root_dir=base):  # noqa: PTH207 (one level; leaves out hidden files)
            yield from _expand(base / name, parts[1:])


def _folders(base: Path) -> Iterator[Path]:
    """A folder and all below it that are not hidden, each once; links come last, after what they lead to."""
    seen: set[tuple[int, int]] = set()
    folders, links = [base] if base.is_dir() else [], list[Path]()
    while folders or links:
        folder = (folders or links).pop()
        about = folder.stat()
        if (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        yield folder
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name, reverse=True)
        for entry in inside:
            if entry.name[0] != "." and _leads_to_folder(entry):
                (links if entry.is_symlink() else folders).append(folder / entry.name)


def _leads_to_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where nobody may look
        return False


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # a link to nothing, or to itself
            return False
        raise


def _raise(error: OSError) -> None:
    raise error
