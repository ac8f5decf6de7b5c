"""Locks: one process at a time writes a file or a folder.

The operating system locks a hidden file beside a file, or inside a folder (`filelock`). Such a lock ends with
its process; a lock file that a killed process leaves has no effect. On a file system without locks (some
Lustre and NFS mounts) the existence of a second file is the lock. It names its process: the next process on
the same machine removes it if that one is dead; after a crash of another machine the user removes it.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ropewalk.errors import RunFolderError

LOCK = ".lock"
SOFT_LOCK = ".lock-exists"
NOT_SUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


def is_lock(name: str) -> bool:
    """Whether a file of this name is a lock."""
    return name.startswith(".") and name.endswith((LOCK, SOFT_LOCK))


class Lock:
    """Exclusive use of a file or a folder by this process, until `close` or the end of a `with` block.

    Args:
        path: an existing folder, or a file, which may be missing.

    Raises:
        RunFolderError: another process uses it, or the file system refuses to lock.
        OSError: the lock file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / LOCK if path.is_dir() else path.with_name(f".{path.name}{LOCK}")
        if not self._path.parent.is_dir():  # filelock would create it
            raise FileNotFoundError(errno.ENOENT, "No such folder", str(self._path.parent))
        try:
            self._lock = self._acquire()
        except Timeout:
            raise RunFolderError(self._in_use(path)) from None
        except OSError as error:
            if error.errno != errno.ENOLCK:
                raise
            raise RunFolderError(
                f"{path} can't be locked, because its file system has no locks left or none at all "
                f"(ENOLCK): choose a folder on a local disk."
            ) from error

    def close(self) -> None:
        """Releases the lock and removes its file."""
        if not self._lock.is_locked:
            return
        if not isinstance(self._lock, SoftFileLock) and os.name != "nt":
            # While it is locked: a process that opened this file before sees that its name is gone.
            self._path.unlink(missing_ok=True)
        self._lock.release()
        if os.name == "nt":  # removes no open file; one that another process opened since stays
            with suppress(OSError):
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _acquire(self) -> BaseFileLock:
        lock: BaseFileLock = FileLock(self._path, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            raise
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            self._path.unlink(missing_ok=True)  # no process can have locked it
            lock = SoftFileLock(self._soft_path, timeout=0, thread_local=False)
            lock.acquire()
        return lock

    @property
    def _soft_path(self) -> Path:
        return self._path.with_name(self._path.name.removesuffix(LOCK) + SOFT_LOCK)

    def _in_use(self, path: Path) -> str:
        remedy = "wait until it ends, or choose another folder"
        if self._soft_path.exists():
            remedy += f"; if that process is dead, remove {self._soft_path}"
        return f"{path} is in use by another process: {remedy}."
