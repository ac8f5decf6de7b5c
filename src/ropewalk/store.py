"""Files are written whole or not at all, and stay; a folder is written by one process at a time.

Every file and folder gets the permissions that the user's umask gives, whatever wrote it.
"""

import errno
import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

from ropewalk.errors import RunFolderError

LOCK = ".lock"
PARTIAL = ".partial"


def bring_to_disk(path: Path) -> None:
    """A file's content, or the names in a folder, as durable as the disk makes them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """A file's content, which must be small: nothing larger is taken into memory.

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


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was: a reader never sees half a file.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    partial = create_partial(path, suffix=PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def create_partial(path: Path, *, suffix: str = "") -> Path:
    """An empty hidden file beside `path`, with the permissions that the umask gives (`tempfile` gives 0600).

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    partial = partial_name(path, suffix)
    partial.touch(exist_ok=False)
    return partial


def partial_name(path: Path, suffix: str = "") -> Path:
    """A hidden name beside `path` that nothing has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


def follow_umask(folder: Path) -> None:
    """Give what libraries wrote into a folder the permissions that the umask gives.

    safetensors writes each file with 0600, so that a server of another user could not read it. A file that
    is linked from elsewhere keeps its permissions, which are its owner's.

    Raises:
        OSError: they can't be changed.
    """
    mode = _usual_mode(folder)
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            continue
        enter = (mode & 0o444) >> 2 if path.is_dir() else 0  # whoever may read a folder may enter it
        path.chmod(path.stat().st_mode & 0o7000 | mode | enter)


def link_or_copy(source: str | Path, target: str | Path, *, copy: bool = False) -> None:
    """The same content at another place: by a hard link, or where that would not do by a copy.

    A link has the permissions of its source. So what other users may not read (a file of a private cache) is
    copied, if the umask lets them read what is written here.

    Args:
        copy: never link.

    Raises:
        OSError: it can't be written.
    """
    source, target = Path(source).resolve(), Path(target)  # a hub's cache has links; a link to one breaks
    readable = _usual_mode(target.parent) & 0o444
    if not copy and source.stat().st_mode & readable == readable:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    shutil.copyfile(source, target)


def _usual_mode(folder: Path) -> int:
    """The permissions of a new file there. (The umask itself can't be read without changing it.)"""
    probe = create_partial(folder / "umask", suffix=PARTIAL)
    try:
        return probe.stat().st_mode & 0o777
    finally:
        probe.unlink()


def clear_partials(folder: Path, name: str = "*") -> None:
    """Take away what `write_atomically` left half-written where it was killed; no other may write there now.

    Args:
        name: of the file that was to be written; by default any.

    Raises:
        OSError: one can't be removed.
    """
    for partial in folder.glob(f".{name}.*{PARTIAL}"):
        if partial.is_file():
            partial.unlink(missing_ok=True)


class FolderLock:
    """A folder as one process's own, until `close` (or `with`); the lock dies with the process.

    The file that carries the lock goes when the folder is given free; one that a killed process left means
    nothing.

    Raises:
        RunFolderError: another process has it.
        OSError: it can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._file: Any = self._path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it before may have removed the file; another process may have made a new one.
            is_ours = os.fstat(self._file.fileno()).st_nlink > 0
        except BlockingIOError:
            is_ours = False
        except BaseException:
            self._file.close()
            raise
        if not is_ours:
            self._file.close()
            raise RunFolderError(
                f"{folder} is in use by another process: wait until it ends, or choose another folder."
            )

    def close(self) -> None:
        """Give the folder free."""
        if not self._file.closed:
            self._path.unlink(missing_ok=True)
            self._file.close()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
