"""Files are written whole or not at all, and stay."""

import os
import tempfile
from pathlib import Path


def bring_to_disk(path: Path) -> None:
    """A file's content, or the names in a folder, as durable as the disk makes them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, or leave it as it was: a reader never sees half a file.

    Raises:
        OSError: the folder is missing, full or not writable.
    """
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
