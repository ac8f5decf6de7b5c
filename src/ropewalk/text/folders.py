"""The regular files of a folder or of a pattern, despite link cycles, pipes, devices and sockets."""

import errno
import glob
import os
import stat
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path

EVERYWHERE = "**"


def files_below(folder: Path) -> list[Path]:
    """Returns every regular file below a folder, sorted by path; links to folders are not followed.

    Raises:
        OSError: a folder can't be read.
    """
    found = [Path(place, name) for place, _, names in os.walk(folder, onerror=_raise) for name in names]
    return sorted(filter(_is_regular, found))


def files_matching(pattern: str) -> list[Path]:
    """Returns every regular file that a pattern matches by the rules of the module `glob`, sorted by path.

    `**` follows links to folders, but enters each folder once, so that a link to a parent ends.

    Raises:
        OSError: a folder can't be read.
    """
    path = Path(pattern)
    return sorted(filter(_is_regular, set(_expand(Path(path.anchor), path.relative_to(path.anchor).parts))))


def _expand(base: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Every path below `base` that the rest of a pattern matches."""
    plain = tuple(takewhile(lambda part: not glob.has_magic(part), parts))
    base, parts = base.joinpath(*plain), parts[len(plain) :]
    if not parts:
        yield base
    elif parts[0] == EVERYWHERE:
        rest = tuple(dropwhile(lambda part: part == EVERYWHERE, parts))
        for folder in _folders(base):
            yield from _expand(folder, rest or ("*",))
    else:
        for name in glob.glob(parts[0], root_dir=base):  # noqa: PTH207 (one level, without hidden files)
            yield from _expand(base / name, parts[1:])


def _folders(base: Path) -> Iterator[Path]:
    """A folder and all unhidden folders below it, each once, by its own path rather than by a link."""
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
            if entry.name[0] != "." and _is_folder(entry):
                (links if entry.is_symlink() else folders).append(folder / entry.name)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link cycle, or a target that this user may not read
        return False


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # a link to nothing or to itself
            return False
        raise


def _raise(error: OSError) -> None:
    raise error
