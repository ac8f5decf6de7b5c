"""A source, as the user names it, to documents: files, folders, globs, hub data sets, the standard library.

    novel.txt  notes.md  code.py     one document each, UTF-8
    corpus.jsonl  corpus.parquet     one document per row (see `formats`)
    folder/  "books/*.txt"           every file of these formats, sorted by path
    owner/name[:config][@split]      a data set on the hub, streamed, one document per row
    stdlib[:search|:held-out|:train] the Python library's source code; `tokens` joins its files

A data set without a split name is read from the split that fits the purpose (`HUB_SPLITS`).
"""

import glob
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from ropewalk.errors import DataError
from ropewalk.text.documents import Document, DocumentKind, readable
from ropewalk.text.folders import files_below, files_matching
from ropewalk.text.formats import (
    ROW_FORMATS,
    SUFFIXES,
    first_line,
    read_file,
    read_text_file,
    require_rows,
    row_document,
)
from ropewalk.text.stdlib import Split, stdlib_files, stdlib_folder

STDLIB_SPLITS: dict[str, Split] = {
    "search": "search",
    "held-out": "held_out",
    "held_out": "held_out",
    "train": "train",
}
HUB_SPLITS: Mapping[Split, tuple[str, ...]] = {
    "search": ("validation", "test", "train"),
    "held_out": ("test", "validation", "train"),
    "train": ("train",),
}
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[^@]+)?(@.+)?")


def is_stdlib(source: str) -> bool:
    """Returns whether a source names the standard library or a part of it."""
    return source == "stdlib" or source.startswith("stdlib:")


def read_documents(
    source: str,
    *,
    split: Split = "held_out",
    folder: Path | None = None,
    kind: DocumentKind = "text",
    by_folder: bool = False,
) -> Iterator[Document]:
    """Returns an iterator over the documents of a source in a fixed order.

    Args:
        source: see the module's docstring.
        split: the part that plain `stdlib` means, and the part of a hub data set that is tried first
            (`search`: validation; `held_out`: test) if the source does not name one. Only `train` may read
            `stdlib:train`.
        folder: the library of another interpreter, for `stdlib`.
        kind: `chat` reads rows of messages.
        by_folder: sorts documents by `Document.folder`.

    Raises:
        DataError: the source is missing, unreadable, of an unknown format, or has no document. A wrong name
            is found before anything is read.
    """
    if is_stdlib(source):
        require_rows(source, kind)
        return _stdlib_documents(source, split, folder, by_folder)
    if not source.strip():
        raise DataError(
            "The text has an empty name: name a file, a folder, a glob, a hub data set, or stdlib."
        )
    if "\0" in source:
        raise DataError(f"{source!r} has a NUL character, which no name may have: name a text.")
    path = _expanded(source)
    with readable(path):
        is_folder, exists = path.is_dir(), path.exists()
    if is_folder:
        return _folder_documents(path, kind, by_folder)
    if exists:
        return _file_documents(path, kind)
    if glob.has_magic(source):
        return _glob_documents(source, kind, by_folder)
    if not HUB_NAME.fullmatch(source) or path.suffix in SUFFIXES:
        raise DataError(
            f"{source:.200} does not exist: name a file, a folder, a glob, a hub data set (owner/name), or "
            f"stdlib."
        )
    return _hub_documents(source, split, kind)


# ---------------------------------------------------------------- files and folders


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise DataError(f"{source} is in a home folder that does not exist: name another folder.") from None


def _file_documents(path: Path, kind: DocumentKind) -> Iterator[Document]:
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path} has an unknown format: name a file that ends in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise DataError(f"{path} is a pipe or a device, not a file: name a text.")
    with readable(path):
        is_empty = path.stat().st_size == 0
    if is_empty:
        raise DataError(f"{path} is empty: name a text.")
    if path.suffix.lower() not in ROW_FORMATS:
        require_rows(str(path), kind)
    return read_file(path, kind)


def _folder_documents(folder: Path, kind: DocumentKind, by_folder: bool) -> Iterator[Document]:
    with readable(folder):
        files = files_below(folder)
    return _documents_of(files, folder, f"The folder {folder}", kind, by_folder)


def _glob_documents(pattern: str, kind: DocumentKind, by_folder: bool) -> Iterator[Document]:
    expanded = _expanded(pattern)
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), expanded.parts))
    with readable(fixed):
        files = files_matching(str(expanded))
    return _documents_of(files, fixed, f"The pattern {pattern}", kind, by_folder)


def _documents_of(
    files: list[Path], root: Path, what: str, kind: DocumentKind, by_folder: bool
) -> Iterator[Document]:
    """The documents of many files, without those of other formats and empty ones."""
    suffixes = SUFFIXES if kind == "text" else tuple(ROW_FORMATS)
    known = [file for file in files if file.suffix.lower() in suffixes]
    with readable(root):
        filled = [file for file in known if file.stat().st_size > 0]
    if not filled:
        found = "empty files only" if known else "other formats only" if files else "nothing"
        raise DataError(
            f"{what} has no {kind} ({found}): it must have a file that ends in {', '.join(suffixes)}."
        )
    placed = [(_folder_below(root, file), file) for file in filled]
    if by_folder:
        placed.sort()
    return (replace(document, folder=folder) for folder, file in placed for document in read_file(file, kind))


def _folder_below(root: Path, file: Path) -> str:
    """The subfolder of `root` that contains a file, or `root`."""
    inside = file.relative_to(root).parts[:-1]
    return str(root / inside[0]) if inside else str(root)


# ---------------------------------------------------------------- hub and standard library


def _hub_documents(source: str, split: Split, kind: DocumentKind) -> Iterator[Document]:
    """The rows of a data set, streamed, from the first of `HUB_SPLITS` that it has."""
    import datasets  # noqa: PLC0415 (slow to import)

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each retry
    name, _, part = source.partition("@")
    name, _, config = name.partition(":")
    try:
        parts = datasets.get_dataset_split_names(name, config or None)
        part = part or next((candidate for candidate in HUB_SPLITS[split] if candidate in parts), parts[0])
        rows = datasets.load_dataset(name, config or None, split=part, streaming=True)
        for number, row in enumerate(rows):
            yield row_document(row, f"{source}, row {number} of {part}", kind)
    except DataError:
        raise
    except Exception as error:  # the hub client raises whatever its transport raises
        raise DataError(
            f"{source} is not a file or folder here, and can't be read as a data set from the hub: "
            f"{first_line(error)}."
        ) from None


def _stdlib_documents(source: str, split: Split, folder: Path | None, by_folder: bool) -> Iterator[Document]:
    """The files of a split, each named by its path in the library."""
    name = source.partition(":")[2] or split
    if name not in STDLIB_SPLITS:
        raise DataError(
            f"{source} is not a part of the library: use stdlib, stdlib:search or stdlib:held-out."
        )
    if name == "train" and split != "train":
        raise DataError(f"{source} is for training, not for measuring: use stdlib:search or stdlib:held-out.")
    folder = folder or stdlib_folder()
    files = [file for file in stdlib_files(STDLIB_SPLITS[name], folder) if file.stat().st_size > 0]
    if not files:
        raise DataError(f"{folder} does not have the Python library's source code: name another text.")
    if by_folder:
        files.sort(key=lambda file: _folder_below(folder, file))  # stable: the fixed order within a folder
    return (
        replace(
            document,
            name=f"stdlib/{file.relative_to(folder)}",
            folder=f"stdlib/{Path(_folder_below(folder, file)).relative_to(folder)}",
        )
        for file in files
        for document in read_text_file(file)
    )
