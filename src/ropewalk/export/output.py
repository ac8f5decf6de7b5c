"""Writes an export completely or not at all, and never replaces an existing file or folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ropewalk.errors import ExportError
from ropewalk.store import atomic_file, atomic_folder, disk_errors


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` at the end of the `with` block; an exception removes it.

    Args:
        out: the folder of the export; missing parents are created.

    Raises:
        ExportError: `out` exists, or can't be written.
    """
    with _output(out), atomic_folder(out) as partial:
        yield partial


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """As `new_folder`, for one file.

    Raises:
        ExportError: `out` exists, or can't be written.
    """
    with _output(out), atomic_file(out, replace=False) as partial:
        yield partial


def require_absent(out: Path) -> None:
    """Refuse an output path that exists.

    Raises:
        ExportError: a file, a folder or a link is there.
    """
    if out.exists() or out.is_symlink():
        raise _exists(out)


@contextmanager
def _output(out: Path) -> Iterator[None]:
    require_absent(out)
    with disk_errors(out, ExportError):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except FileExistsError as error:  # another process has written it since
            if error.filename == str(out):
                raise _exists(out) from error
            raise


def _exists(out: Path) -> ExportError:
    return ExportError(f"{out} exists, but an export replaces nothing: give another path, or remove it.")
