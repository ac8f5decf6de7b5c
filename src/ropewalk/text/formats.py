"""File formats: .txt, .md and .py files are one document each; .jsonl and .parquet files one per row.

A row has the field `text`, or, for chats, the field `messages`: a list of objects with `role` and `content`.
It may have the field `topic`.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ropewalk.errors import DataError
from ropewalk.store.strict_json import JsonError, parse_json
from ropewalk.text.documents import Document, DocumentKind, readable, require_characters

FIELDS: Mapping[DocumentKind, str] = {"text": "text", "chat": "messages"}
TOPIC = "topic"
BLOCK_CHARACTERS = 1 << 18
ROWS_PER_BATCH = 64
LARGEST_ROW_CHARACTERS = 1 << 28  # of a line of .jsonl, which is read whole


def read_file(path: Path, kind: DocumentKind) -> Iterator[Document]:
    """Returns an iterator over the documents of a file whose suffix is one of `SUFFIXES`.

    Raises:
        DataError: the file can't be read, or a row has no text.
    """
    suffix = path.suffix.lower()
    return ROW_FORMATS[suffix](path, kind) if suffix in ROW_FORMATS else read_text_file(path)


def read_text_file(path: Path) -> Iterator[Document]:
    """Yields the one document of a text file."""

    def head(num_characters: int) -> str:
        with readable(path), path.open(encoding="utf-8-sig") as file:
            return require_characters(file.read(num_characters), str(path))

    def blocks() -> Iterator[str]:
        with readable(path), path.open(encoding="utf-8-sig") as file:
            while block := file.read(BLOCK_CHARACTERS):
                yield require_characters(block, str(path))

    yield Document(name=str(path), head=head, stream=blocks, file=path)


def _read_json_lines(path: Path, kind: DocumentKind) -> Iterator[Document]:
    with readable(path), path.open(encoding="utf-8-sig") as file:
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
                    f"{name} is not valid JSON ({error}): each line must be an object with the field "
                    f"`{FIELDS[kind]}`."
                ) from None
            yield row_document(row, name, kind)


def _read_parquet(path: Path, kind: DocumentKind) -> Iterator[Document]:
    import pyarrow  # noqa: PLC0415 (slow to import)
    import pyarrow.parquet as parquet  # noqa: PLC0415

    with readable(path):
        try:
            file = parquet.ParquetFile(path)
            fields = [name for name in (FIELDS[kind], TOPIC) if name in file.schema_arrow.names]
            if FIELDS[kind] not in fields:
                raise _missing_field(str(path), file.schema_arrow.names, kind)
            number = 0
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=fields):
                for row in batch.to_pylist():
                    number += 1
                    yield row_document(row, f"{path}, row {number}", kind)
        except pyarrow.ArrowException as error:
            raise DataError(f"{path} is not a readable parquet file: {first_line(error)}.") from None


ROW_FORMATS: dict[str, Callable[[Path, DocumentKind], Iterator[Document]]] = {
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
SUFFIXES = (".txt", ".md", ".py", *ROW_FORMATS)


def row_document(row: Any, name: str, kind: DocumentKind) -> Document:
    """Returns the document of a row.

    Args:
        row: an object with the field that `FIELDS` names for this kind.
        name: for messages.

    Raises:
        DataError: the field is missing or has another type.
    """
    field = FIELDS[kind]
    if not isinstance(row, dict) or field not in row:
        raise _missing_field(name, list(row) if isinstance(row, dict) else [], kind)
    topic = row.get(TOPIC)
    messages = None
    if kind == "text":
        text = row[field]
        if not isinstance(text, str):
            raise DataError(f"{name} has a `{field}` of type {type(text).__name__}, but must have a string.")
    else:
        messages = _messages(row[field], name)
        text = "\n".join(message["content"] for message in messages)
    return Document(
        name=name,
        head=lambda num_characters: require_characters(text[:num_characters], name),
        topic="" if topic is None else str(topic),
        messages=messages,
    )


def _messages(value: Any, name: str) -> tuple[Mapping[str, str], ...]:
    """Returns the role and content of each message, without its other fields."""
    try:
        messages = tuple({"role": entry["role"], "content": entry["content"]} for entry in value)
    except (TypeError, KeyError):
        messages = ()
    texts = [text for entry in messages for text in entry.values()]
    if not messages or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{name} has `{FIELDS['chat']}` that are not a chat: they must be a list of objects with the "
            f"strings `role` and `content`."
        )
    for text in texts:
        require_characters(text, name)
    return messages


def require_rows(source: str, kind: DocumentKind) -> None:
    """Checks the kind of a source that has no rows.

    Raises:
        DataError: chats were requested.
    """
    if kind == "chat":
        raise DataError(
            f"{source} has no rows and so no chats: name {' or '.join(ROW_FORMATS)} files or a hub data set, "
            f"or read it as text."
        )


def _missing_field(name: str, fields: list[str], kind: DocumentKind) -> DataError:
    found = f"the fields {', '.join(map(str, fields)):.200}" if fields else "no fields"
    return DataError(f"{name} has no field `{FIELDS[kind]}` ({found}): rename the field that has the {kind}.")


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message without its full stop, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
