"""Files and folders that appear complete or not at all, and stay after a power cut.

A writer fills `.NAME.RANDOM.partial` in the same folder; `publish` brings it to the disk and renames it.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ropewalk.store.permissions import follow_umask

PARTIAL = ".partial"


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` by `content`, or leaves it unchanged.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    with atomic_file(path) as partial:
        partial.write_bytes(content)


@contextmanager
def atomic_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """A file to write, which becomes `path` at the end of the `with` block; an exception removes it.

    Args:
        path: the final name.
        replace: whether an existing file may be replaced.

    Raises:
        FileExistsError: `path` exists, and `replace` is false.
        OSError: it can't be written.
    """
    partial = partial_path(path)
    try:
        partial.touch(exist_ok=False)
        yield partial
        publish(partial, path, replace=replace)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end of the `with` block; an exception removes it.

    Raises:
        As `atomic_file`.
    """
    partial = partial_path(path)
    try:
        partial.mkdir()
        yield partial
        publish(partial, path, replace=replace)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(path: Path, *, unique: bool = True) -> Path:
    """The hidden name, in the same folder, under which `path` is written.

    Args:
        path: the final name.
        unique: false gives the same name in each process, for processes that fill one folder together.
    """
    token = f".{secrets.token_hex(4)}" if unique else ""
    return path.with_name(f".{path.name}{token}{PARTIAL}")


def publish(partial: Path, path: Path, *, replace: bool) -> None:
    """Brings a complete file or folder to the disk and renames it to `path`.

    Raises:
        FileExistsError: `path` exists, and `replace` is false.
        OSError: it can't be written.
    """
    if partial.is_dir():
        follow_umask(partial)
        for inner in sorted(partial.rglob("*")):
            bring_to_disk(inner)
    bring_to_disk(partial)
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "It exists", str(path))
    replaced = set_aside(path) if partial.is_dir() and path.exists() else None
    partial.replace(path)
    bring_to_disk(path.parent)
    if replaced is not None:
        shutil.rmtree(replaced)


def remove_folder(folder: Path) -> None:
    """Removes a folder; a killed process leaves no part of it under its name.

    Raises:
        OSError: it can't be removed.
    """
    shutil.rmtree(set_aside(folder))


def set_aside(folder: Path) -> Path:
    """Renames a folder to a name that `clear_partials` removes, and returns that name."""
    return folder.rename(partial_path(folder))


def bring_to_disk(path: Path) -> None:
    """Makes a file's content, or the names in a folder, durable.

    Raises:
        OSError: the disk is full or fails.
    """
    on_windows = os.name == "nt"
    if path.is_dir():
        if on_windows:  # has no such call for folders
            return
        with suppress(PermissionError, NotADirectoryError):
            _sync(path, os.O_RDONLY)
    else:
        _sync(path, os.O_RDWR if on_windows else os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network mounts
            raise
    finally:
        os.close(descriptor)


def clear_partials(folder: Path, name: str = "*") -> None:
    """Removes what a killed process left half-written or half-removed; no other process may write there.

    Args:
        folder: where to look; a missing folder has nothing to remove.
        name: the final name of what was written; by default any.

    Raises:
        OSError: something can't be removed.
    """
    for partial in folder.glob(f".{name}.*"):
        if not partial.name.endswith(PARTIAL):
            continue
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """A file's content, if it has at most `most_bytes`.

    Raises:
        OSError: it can't be read, is larger, or is a pipe or a device, which may never end.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "It is a pipe or a device, not a file", str(path))
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"It is larger than {most_bytes} bytes", str(path))
    return content
