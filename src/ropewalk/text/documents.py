"""A source, as the user names it, to documents: files, folders, globs, hub data sets, the standard library.

A document is not read whole: `Document.head` gives its first characters, so that 2048 tokens of a file of
a gigabyte cost a page of reading; `Document.blocks` gives all of it, piece by piece.

    novel.txt  notes.md  code.py     one document each, UTF-8
    corpus.jsonl  corpus.parquet     one document a line or row: its field `text`
    folder/  "books/*.txt"           every file of these kinds, sorted by path
    owner/name[:config][@split]      a data set on the hub, streamed: field `text`
    stdlib[:search|:held-out|:train] the Python library's source; its files are joined (see `tokens`)

As chats, rows have a list of `messages` (role and content) in the place of `text`; a row may have a `topic`.
"""

import glob
import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal

from ropewalk.errors import DataError
from ropewalk.store.strict_json import JsonError, parse_json, require_text
from ropewalk.text.folders import files_below, files_matching
from ropewalk.text.stdlib import Split, stdlib_files, stdlib_folder

Purpose = Literal["search", "held_out", "train"]
Kind = Literal["text", "chat"]

FIELDS: Mapping[Kind, str] = {"text": "text", "chat": "messages"}
TOPIC = "topic"
STDLIB_SPLITS: dict[str, Split] = {
    "search": "search",
    "held-out": "held_out",
    "held_out": "held_out",
    "train": "train",
}
HUB_SPLITS: Mapping[Purpose, tuple[str, ...]] = {
    "search": ("validation", "test", "train"),
    "held_out": ("test", "validation", "train"),
    "train": ("train",),
}
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+(:[^@]+)?(@.+)?")
ROWS_AT_ONCE = 64
BLOCK_CHARACTERS = 1 << 18
LARGEST_ROW_CHARACTERS = 1 << 28  # of a line of .jsonl, which is read whole
WHOLE = 1 << 62  # characters: more than any text has


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text.

    Attributes:
        name: for messages.
        head: a number n to the first n characters; fewer only where the text ends.
            Raises DataError where they are not UTF-8 text.
        folder: the folder just below its source's own in which it lies (a package, for `stdlib`), or the
            source's own; "" where it is in none.
        topic: what its row says of it; "" where that says nothing.
        messages: of a chat; None for other texts.
        file: that it is the whole of; None for a row.
    """

    name: str
    head: Callable[[int], str]
    folder: str = ""
    topic: str = ""
    messages: tuple[Mapping[str, str], ...] | None = None
    stream: Callable[[], Iterator[str]] | None = None
    file: Path | None = None

    def fingerprint(self) -> list[str | int]:
        """Its name, and a file's size or a row's hash: what tells it from another without reading a file."""
        if self.file is not None:
            with _readable(self.file):
                return [self.name, self.file.stat().st_size]
        return [self.name, hashlib.sha256(self.head(WHOLE).encode()).hexdigest()]

    def blocks(self) -> Iterator[str]:
        """The whole text in its order, a piece at a time."""
        return self.stream() if self.stream else iter((self.head(WHOLE),))

    def stretches(self) -> Iterator[str]:
        """`blocks`, but each ends with a line, or before a word in a text without lines."""
        text = ""
        for block in self.blocks():
            if text:
                cut = text.rfind("\n") + 1 or max(text.rfind(" "), 0) or len(text)
                yield text[:cut]
                text = text[cut:]
            text += block
        yield text


def is_stdlib(source: str) -> bool:
    """Whether a source names the standard library, or a part of it."""
    return source == "stdlib" or source.startswith("stdlib:")


def read_documents(
    source: str,
    *,
    split: Purpose = "held_out",
    folder: Path | None = None,
    kind: Kind = "text",
    by_folder: bool = False,
) -> Iterator[Document]:
    """Every document of a source in a fixed order, one at a time.

    Args:
        split: what plain `stdlib` means, and which part of a hub data set is looked for first
            (`search`: validation; `held_out`: test), where the source does not say it. `stdlib:train` is
            given to `train` only.
        folder: another interpreter's library, for `stdlib`.
        kind: `chat` reads rows of messages.
        by_folder: documents of one `Document.folder` come one after the other.

    Raises:
        DataError: missing, unreadable, of an unknown kind, or holding no document.
    """
    if is_stdlib(source):
        _require_text(source, kind)
        return _stdlib_documents(source, split, folder, by_folder)
    if not source.strip():
        raise DataError("The text has an empty name: name a file, folder, glob, hub data set, or stdlib.")
    if "\0" in source:
        raise DataError(f"{source!r} holds a NUL character, which no name has: name a text.")
    path = _expanded(source)
    with _readable(path):
        is_folder, is_there = path.is_dir(), path.exists()
    if is_folder:
        return _folder_documents(path, kind, by_folder)
    if is_there:
        return _file_documents(path, kind)
    if glob.has_magic(source):
        return _glob_documents(source, kind, by_folder)
    if not HUB_NAME.fullmatch(source) or path.suffix in READERS:
        raise DataError(
            f"{source:.200} does not exist: name a file, folder, glob, hub data set (owner/name), or stdlib."
        )
    return _hub_documents(source, split, kind)


# ---------------------------------------------------------------- files


def _expanded(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise DataError(f"{source} is in a home folder that does not exist: name another place.") from None


def _file_documents(path: Path, kind: Kind) -> Iterator[Document]:
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path} is no kind of text that is read here: name one of {', '.join(READERS)}.")
    if not path.is_file():
        raise DataError(f"{path} is a pipe or a device, not a file: name a text.")
    with _readable(path):
        empty = path.stat().st_size == 0
    if empty:
        raise DataError(f"{path} is empty: name a text.")
    if path.suffix.lower() not in ROW_READERS:
        _require_text(str(path), kind)
    return _read_file(path, kind)


def _folder_documents(folder: Path, kind: Kind, by_folder: bool) -> Iterator[Document]:
    with _readable(folder):
        files = files_below(folder)
    return _joined(files, folder, f"The folder {folder}", kind, by_folder)


def _glob_documents(pattern: str, kind: Kind, by_folder: bool) -> Iterator[Document]:
    expanded = _expanded(pattern)
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), expanded.parts))
    with _readable(fixed):
        files = files_matching(str(expanded))
    return _joined(files, fixed, f"The pattern {pattern}", kind, by_folder)


def _joined(files: list[Path], root: Path, what: str, kind: Kind, by_folder: bool) -> Iterator[Document]:
    """The documents of many files; other kinds and empty files are passed over."""
    kinds = READERS if kind == "text" else ROW_READERS
    known = [file for file in files if file.suffix.lower() in kinds]
    with _readable(root):
        readable = [file for file in known if file.stat().st_size > 0]
    if not readable:
        found = "empty files only" if known else "other kinds of file only" if files else "nothing"
        raise DataError(f"{what} gives no {kind} ({found}): it must hold one of {', '.join(kinds)}.")
    placed = [(_folder_below(root, file), file) for file in readable]
    if by_folder:
        placed.sort()
    return (
        replace(document, folder=folder) for folder, file in placed for document in _read_file(file, kind)
    )


def _folder_below(root: Path, file: Path) -> str:
    """The folder just below `root` in which a file lies, or `root`."""
    inside = file.relative_to(root).parts[:-1]
    return str(root / inside[0]) if inside else str(root)


def _read_file(path: Path, kind: Kind) -> Iterator[Document]:
    suffix = path.suffix.lower()
    return ROW_READERS[suffix](path, kind) if suffix in ROW_READERS else _text_file(path)


def _text_file(path: Path) -> Iterator[Document]:
    def head(num_characters: int) -> str:
        with _readable(path), path.open(encoding="utf-8-sig") as file:
            return _checked(file.read(num_characters), str(path))

    def blocks() -> Iterator[str]:
        with _readable(path), path.open(encoding="utf-8-sig") as file:
            while block := file.read(BLOCK_CHARACTERS):
                yield _checked(block, str(path))

    yield Document(name=str(path), head=head, stream=blocks, file=path)


def _json_lines(path: Path, kind: Kind) -> Iterator[Document]:
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        for number in count(1):
            line = file.readline(LARGEST_ROW_CHARACTERS + 1)
            if not line:
                return
            if not line.strip():
                continue
            name = f"{path}, line {number}"
            if len(line) > LARGEST_ROW_CHARACTERS:
                raise DataError(f"{name} is longer than {LARGEST_ROW_CHARACTERS} characters: split it.")
            try:
                row = parse_json(line, allow_nan=True)
            except JsonError as error:
                raise DataError(
                    f"{name} is not JSON that is read here ({error}): a line must be an object with a "
                    f"`{FIELDS[kind]}`."
                ) from None
            yield _row_document(row, name, kind)


def _parquet(path: Path, kind: Kind) -> Iterator[Document]:
    import pyarrow  # noqa: PLC0415 (slow to import)
    import pyarrow.parquet as parquet  # noqa: PLC0415

    with _readable(path):
        try:
            file = parquet.ParquetFile(path)
            fields = [name for name in (FIELDS[kind], TOPIC) if name in file.schema_arrow.names]
            if FIELDS[kind] not in fields:
                raise _without_field(str(path), file.schema_arrow.names, kind)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=fields):
                for row in batch.to_pylist():
                    number += 1
                    yield _row_document(row, f"{path}, row {number}", kind)
        except pyarrow.ArrowException as error:
            raise DataError(f"{path} is not a readable parquet file: {_first_line(error)}.") from None


ROW_READERS: dict[str, Callable[[Path, Kind], Iterator[Document]]] = {
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
READERS = (".txt", ".md", ".py", *ROW_READERS)


# ---------------------------------------------------------------- hub and standard library


def _hub_documents(source: str, split: Purpose, kind: Kind) -> Iterator[Document]:
    """Rows of a data set, streamed; the first of the splits that it has."""
    import datasets  # noqa: PLC0415 (slow to import)

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each retry otherwise
    name, _, part = source.partition("@")
    name, _, config = name.partition(":")
    try:
        parts = datasets.get_dataset_split_names(name, config or None)
        part = part or next((candidate for candidate in HUB_SPLITS[split] if candidate in parts), parts[0])
        rows = datasets.load_dataset(name, config or None, split=part, streaming=True)
        for number, row in enumerate(rows):
            yield _row_document(row, f"{source}, row {number} of {part}", kind)
    except DataError:
        raise
    except Exception as error:  # the hub client raises whatever its transport raises
        raise DataError(
            f"{source} is neither a file nor a folder here, and can't be read as a data set from the "
            f"hub: {_first_line(error)}."
        ) from None


def _stdlib_documents(
    source: str, split: Purpose, folder: Path | None, by_folder: bool
) -> Iterator[Document]:
    """The split's files, each with its place in the library as its name."""
    asked = source.partition(":")[2] or split
    if asked not in STDLIB_SPLITS:
        raise DataError(f"{source} is no part of the library: say stdlib, stdlib:search or stdlib:held-out.")
    if asked == "train" and split != "train":
        raise DataError(f"{source} is for training, not for measuring: say stdlib:search or stdlib:held-out.")
    folder = folder or stdlib_folder()
    files = [file for file in stdlib_files(STDLIB_SPLITS[asked], folder) if file.stat().st_size > 0]
    if not files:
        raise DataError(f"The Python library's source is not in {folder}: name a text of your own.")
    if by_folder:
        files.sort(key=lambda file: _folder_below(folder, file))  # stable: the fixed order within
    return (
        replace(
            document,
            name=f"stdlib/{file.relative_to(folder)}",
            folder=f"stdlib/{Path(_folder_below(folder, file)).relative_to(folder)}",
        )
        for file in files
        for document in _text_file(file)
    )


# ---------------------------------------------------------------- checks


def _row_document(row: Any, name: str, kind: Kind) -> Document:
    field = FIELDS[kind]
    if not isinstance(row, dict) or field not in row:
        raise _without_field(name, list(row) if isinstance(row, dict) else [], kind)
    topic = row.get(TOPIC)
    messages = None
    if kind == "text":
        text = row[field]
        if not isinstance(text, str):
            raise DataError(f"{name} has a `{field}` that is {type(text).__name__}, but must be a string.")
    else:
        messages = _messages(row[field], name)
        text = "\n".join(message["content"] for message in messages)
    return Document(
        name=name,
        head=lambda num_characters: _checked(text[:num_characters], name),
        topic="" if topic is None else str(topic),
        messages=messages,
    )


def _messages(value: Any, name: str) -> tuple[Mapping[str, str], ...]:
    """A row's messages, each a role and its content and nothing else."""
    try:
        messages = tuple({"role": entry["role"], "content": entry["content"]} for entry in value)
    except (TypeError, KeyError):
        messages = ()
    texts = [text for entry in messages for text in entry.values()]
    if not messages or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{name} has `{FIELDS['chat']}` that are no chat: they must be a list of role and content, "
            f"both strings."
        )
    for text in texts:
        _checked(text, name)
    return messages


def _require_text(source: str, kind: Kind) -> None:
    if kind == "chat":
        raise DataError(
            f"{source} holds no chats: name a source of rows ({', '.join(ROW_READERS)}, or a hub data set), "
            f"or call it a text."
        )


def _without_field(name: str, fields: list[str], kind: Kind) -> DataError:
    found = f"the fields {', '.join(map(str, fields)):.200}" if fields else "no fields"
    return DataError(f"{name} has no field `{FIELDS[kind]}` ({found}): rename the one that holds the {kind}.")


def _checked(text: str, name: str) -> str:
    if "\0" in text:
        raise DataError(f"{name} is binary (it holds NUL bytes): name a UTF-8 text.")
    try:
        require_text(text)
    except JsonError as error:  # a row; a file's bytes are checked as they are decoded
        raise DataError(f"{name} is no text ({error}): leave it out.") from None
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
    place = error.filename or path
    return DataError(f"{place!s:.200} can't be read: {error.strerror or error}.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
