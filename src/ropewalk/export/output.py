"""An output is written beside its place and moved there when it is whole; what exists is never touched."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ropewalk.errors import ExportError
from ropewalk.store import bring_to_disk, create_partial, follow_umask, partial_name

BLOCK_BYTES = 2**22


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` at the end of the `with`, or vanishes with an exception.

    Raises:
        ExportError: `out` exists, or can't be written.
    """
    require_absent(out)
    with _explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = partial_name(out)
        try:
            partial.mkdir()
            yield partial
            follow_umask(partial)
            for file in partial.rglob("*"):
                bring_to_disk(file)
            _move(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """As `new_folder`, for one file, which is to be written at the path that is given.

    Raises:
        ExportError: `out` exists, or can't be written.
    """
    require_absent(out)
    with _explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = create_partial(out)
        try:
            yield partial
            bring_to_disk(partial)
            _move(partial, out)
        finally:
            partial.unlink(missing_ok=True)


def require_absent(out: Path) -> None:
    """Refuse a place that is taken.

    Raises:
        ExportError: something is there.
    """
    if out.exists() or out.is_symlink():
        raise ExportError(f"{out} exists, and is not written over: name another place, or remove it.")


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hash_file(path) for path in files}


def _move(partial: Path, out: Path) -> None:
    require_absent(out)  # somebody else may have been quicker
    partial.rename(out)
    bring_to_disk(out.parent)


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{out} can't be written ({error.strerror or error}); nothing was half-written there."
        ) from error
