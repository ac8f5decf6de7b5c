"""Folders that a user names for results: created, checked to be empty, and removed if nothing was written."""

import os
from contextlib import suppress
from pathlib import Path

from ropewalk.errors import RunFolderError
from ropewalk.store.disk_errors import disk_errors
from ropewalk.store.lock import is_lock

NAMES_SHOWN = 3


def make_folder(path: Path) -> list[Path]:
    """Creates a folder with its parents, and checks that it can be written.

    Returns:
        The folders that did not exist, children first; see `remove_empty`.

    Raises:
        RunFolderError: it is a file, or can't be created or written.
    """
    created: list[Path] = []
    with disk_errors(path, RunFolderError):
        try:
            for folder in [folder for folder in (*reversed(path.parents), path) if not folder.exists()]:
                folder.mkdir(exist_ok=True)
                created.insert(0, folder)
        except OSError:
            remove_empty(created)
            raise
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file: choose a folder.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunFolderError(f"{path} can't be written: change its permissions, or choose another folder.")
    return created


def names_in(path: Path) -> list[str]:
    """The names of the files and folders in a folder, without those of locks.

    Raises:
        RunFolderError: it can't be read.
    """
    with disk_errors(path, RunFolderError, action="read", remedy="choose another folder"):
        return sorted(entry.name for entry in path.iterdir() if not is_lock(entry.name))


def require_empty(path: Path, present: list[str]) -> None:
    """Refuses a folder that has files of others.

    Args:
        path: the folder.
        present: the names in it.

    Raises:
        RunFolderError: it has any; names some of them.
    """
    if present:
        names = ", ".join(present[:NAMES_SHOWN]) + (" ..." if present[NAMES_SHOWN:] else "")
        raise RunFolderError(f"{path} contains other files ({names}): choose a new or an empty folder.")


def remove_empty(folders: list[Path]) -> None:
    """Removes the empty ones of some folders, which are ordered children first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
