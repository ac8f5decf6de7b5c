"""A source, as the user names it, to documents: files, folders, globs, hub data sets, the standard library.

A document is not read whole: `Document.head` gives its first characters, so that 2048 tokens of a file of
a gigabyte cost a page of reading.

    novel.txt  notes.md  code.py     one document each, UTF-8
    corpus.jsonl  corpus.parquet     one document a line or row: its field `text`
    folder/  "books/*.txt"           every file of these kinds, sorted by path
    owner/name[:config][@split]      a data set on the hub, streamed: field `text`
    stdlib[:search|:held-out]        the Python library's source; its files are joined (see `tokens`)
"""

import glob
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ropewalk.errors import DataError
from ropewalk.text.stdlib import Split, stdlib_files, stdlib_folder

Purpose = Literal["search", "held_out"]

FIELD = "text"
STDLIB_SPLITS: dict[str, Split] = {"search": "search", "held-out": "held_out", "held_out": "held_out"}
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[^@]+)?(@.+)?")
ROWS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text.

    Attributes:
        name: for messages.
        head: a number n to the first n characters; fewer only where the text ends.
            Raises DataError where they are not UTF-8 text.
    """

    name: str
    head: Callable[[int], str]


def is_stdlib(source: str) -> bool:
    """Whether a source names the standard library, or a part of it."""
    return source == "stdlib" or source.startswith("stdlib:")


def read_documents(
    source: str, *, split: Purpose = "held_out", folder: Path | None = None
) -> Iterator[Document]:
    """Every document of a source in a fixed order, one at a time.

    Args:
        split: what plain `stdlib` means, and which part of a hub data set is looked for first
            (`search`: validation; `held_out`: test), where the source does not say it.
        folder: another interpreter's library, for `stdlib`.

    Raises:
        DataError: missing, unreadable, of an unknown kind, or holding no document.
    """
    if is_stdlib(source):
        return _stdlib_documents(source, split, folder)
    if not source.strip():
        raise DataError("The text has an empty name: name a file, folder, glob, hub data set, or stdlib.")
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder_documents(path)
    if path.exists():
        return _file_documents(path)
    if glob.has_magic(source):
        return _glob_documents(source)
    if not HUB_NAME.fullmatch(source) or path.suffix in READERS:
        raise DataError(
            f"{source} does not exist: name a file, folder, glob, hub data set (owner/name), or stdlib."
        )
    return _hub_documents(source, split)


# ---------------------------------------------------------------- files


def _file_documents(path: Path) -> Iterator[Document]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} is no kind of text that is read here: name one of {', '.join(READERS)}.")
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise _unreadable(path, error) from None
    if empty:
        raise DataError(f"{path} is empty: name a text.")
    return reader(path)


def _folder_documents(folder: Path) -> Iterator[Document]:
    return _joined([file for file in sorted(folder.rglob("*")) if file.is_file()], f"The folder {folder}")


def _glob_documents(pattern: str) -> Iterator[Document]:
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 (patterns may be absolute)
    paths = sorted(map(Path, matches))
    return _joined([path for path in paths if path.is_file()], f"The pattern {pattern}")


def _joined(files: list[Path], what: str) -> Iterator[Document]:
    """The documents of many files; other kinds and empty files are passed over."""
    known = [file for file in files if file.suffix.lower() in READERS]
    readable = [file for file in known if file.stat().st_size > 0]
    if not readable:
        found = "empty files only" if known else "other kinds of file only" if files else "nothing"
        raise DataError(f"{what} gives no text ({found}): it must hold one of {', '.join(READERS)}.")
    return (document for file in readable for document in READERS[file.suffix.lower()](file))


def _text_file(path: Path) -> Iterator[Document]:
    def head(num_characters: int) -> str:
        with _readable(path), path.open(encoding="utf-8-sig") as file:
            return _checked(file.read(num_characters), str(path))

    yield Document(name=str(path), head=head)


def _json_lines(path: Path) -> Iterator[Document]:
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            name = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise DataError(f"{name} is not JSON: a line must be an object with a `{FIELD}`.") from None
            yield _row_document(row, name)


def _parquet(path: Path) -> Iterator[Document]:
    import pyarrow  # noqa: PLC0415 (slow to import)
    import pyarrow.parquet as parquet  # noqa: PLC0415

    with _readable(path):
        try:
            file = parquet.ParquetFile(path)
            if FIELD not in file.schema_arrow.names:
                raise _without_field(str(path), file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[FIELD]):
                for row in batch.to_pylist():
                    number += 1
                    yield _row_document(row, f"{path}, row {number}")
        except pyarrow.ArrowException as error:
            raise DataError(f"{path} is not a readable parquet file: {_first_line(error)}.") from None


READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".txt": _text_file,
    ".md": _text_file,
    ".py": _text_file,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}


# ---------------------------------------------------------------- hub and standard library


def _hub_documents(source: str, split: Purpose) -> Iterator[Document]:
    """Rows of a data set, streamed; the first of the splits that it has."""
    import datasets  # noqa: PLC0415 (slow to import)

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each retry otherwise
    name, _, part = source.partition("@")
    name, _, config = name.partition(":")
    wanted = ["validation", "test", "train"] if split == "search" else ["test", "validation", "train"]
    try:
        parts = datasets.get_dataset_split_names(name, config or None)
        part = part or next((candidate for candidate in wanted if candidate in parts), parts[0])
        rows = datasets.load_dataset(name, config or None, split=part, streaming=True)
        for number, row in enumerate(rows):
            yield _row_document(row, f"{source}, row {number} of {part}")
    except DataError:
        raise
    except Exception as error:  # the hub client raises whatever its transport raises
        raise DataError(
            f"{source} is neither a file nor a folder here, and can't be read as a data set from the "
            f"hub: {_first_line(error)}."
        ) from None


def _stdlib_documents(source: str, split: Purpose, folder: Path | None) -> Iterator[Document]:
    """The split's files, each with its place in the library as its name."""
    asked = source.partition(":")[2] or split
    if asked not in STDLIB_SPLITS:
        raise DataError(f"{source} is no part of the library: say stdlib, stdlib:search or stdlib:held-out.")
    folder = folder or stdlib_folder()
    files = [file for file in stdlib_files(STDLIB_SPLITS[asked], folder) if file.stat().st_size > 0]
    if not files:
        raise DataError(f"The Python library's source is not in {folder}: name a text of your own.")
    return (
        Document(name=f"stdlib/{file.relative_to(folder)}", head=document.head)
        for file in files
        for document in _text_file(file)
    )


# ---------------------------------------------------------------- checks


def _row_document(row: Any, name: str) -> Document:
    if not isinstance(row, dict) or FIELD not in row:
        raise _without_field(name, list(row) if isinstance(row, dict) else [])
    text = row[FIELD]
    if not isinstance(text, str):
        raise DataError(f"{name} has a `{FIELD}` that is {type(text).__name__}, but must be a string.")
    return Document(name=name, head=lambda num_characters: _checked(text[:num_characters], name))


def _without_field(name: str, fields: list[str]) -> DataError:
    found = f"the fields {', '.join(map(str, fields))}" if fields else "no fields"
    return DataError(f"{name} has no field `{FIELD}` ({found}): rename the one that holds the text.")


def _checked(text: str, name: str) -> str:
    if "\0" in text:
        raise DataError(f"{name} is binary (it holds NUL bytes): name a UTF-8 text.")
    return text


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What reading a file can raise, as one line that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is binary or not UTF-8 (byte {error.start}): name a UTF-8 text.") from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} can't be read: {error.strerror or error}.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
