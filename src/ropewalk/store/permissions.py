"""Every file and folder gets the permissions that the user's umask gives, whichever library wrote it."""

import os
import secrets
import shutil
from pathlib import Path


def follow_umask(folder: Path) -> None:
    """Gives a folder and all files in it the permissions of new files.

    safetensors writes each file with 0600, so that a server of another user could not read it. A file that
    is a link to another place keeps its permissions, which belong to its owner.

    Raises:
        OSError: they can't be changed.
    """
    mode = _usual_mode(folder)
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
            continue
        enter = (mode & 0o444) >> 2 if path.is_dir() else 0  # users who may read a folder may enter it
        path.chmod(path.stat().st_mode & 0o7000 | mode | enter)


def link_or_copy(source: str | Path, target: str | Path, *, copy: bool = False) -> None:
    """Makes the same content available at another place: by a hard link if possible, else by a copy.

    A link has the permissions of its source. So a file that other users may not read (of a private cache) is
    copied, if the umask lets them read new files.

    Args:
        source: an existing file.
        target: a new name.
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
    """The permissions of a new file in a folder. (The umask itself can't be read without changing it.)"""
    probe = folder / f".umask.{secrets.token_hex(4)}.partial"
    probe.touch(exist_ok=False)
    try:
        return probe.stat().st_mode & 0o777
    finally:
        probe.unlink()
