"""Document: one text of a source, read from its beginning as far as needed."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ropewalk.errors import DataError
from ropewalk.store.strict_json import JsonError, require_text

DocumentKind = Literal["text", "chat"]

WHOLE = 1 << 62  # characters: more than any text has


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text. It is not kept in memory: `head` reads its beginning, `blocks` reads all of it in pieces.

    Attributes:
        name: for messages.
        head: maps n to the first n characters, fewer only if the text is shorter. Raises DataError if they
            are not UTF-8 text.
        folder: the subfolder of the source's folder that contains the file (a package, for `stdlib`), or
            the source's folder itself; "" for a source that is a single file or a data set.
        topic: the field `topic` of the row; "" if the row has none.
        messages: the messages of a chat, each with `role` and `content`; None for other texts.
        stream: returns the whole text as an iterator of blocks; None for a row, whose text is in memory.
        file: the file whose whole content the document is; None for a row.
    """

    name: str
    head: Callable[[int], str]
    folder: str = ""
    topic: str = ""
    messages: tuple[Mapping[str, str], ...] | None = None
    stream: Callable[[], Iterator[str]] | None = None
    file: Path | None = None

    def fingerprint(self) -> list[str | int]:
        """Returns the name, and the size of a file or the SHA-256 of a row: JSON values without reading a
        file."""
        if self.file is not None:
            with readable(self.file):
                return [self.name, self.file.stat().st_size]
        return [self.name, hashlib.sha256(self.head(WHOLE).encode()).hexdigest()]

    def blocks(self) -> Iterator[str]:
        """Yields the whole text in order, one block at a time."""
        return self.stream() if self.stream else iter((self.head(WHOLE),))

    def stretches(self) -> Iterator[str]:
        """Yields the whole text in pieces that end with a line, or before a word if there are no lines."""
        text = ""
        for block in self.blocks():
            if text:
                cut = text.rfind("\n") + 1 or max(text.rfind(" "), 0) or len(text)
                yield text[:cut]
                text = text[cut:]
            text += block
        yield text


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns the errors of reading a file into one line that names the file.

    Raises:
        DataError: the file can't be read, or is not UTF-8.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is binary or not UTF-8 (byte {error.start}): name a UTF-8 text.") from None
    except OSError as error:
        place = error.filename or path
        raise DataError(f"{place!s:.200} can't be read: {error.strerror or error}.") from None


def require_characters(text: str, name: str) -> str:
    """Returns the text if it is one.

    Raises:
        DataError: it has NUL characters or lone surrogates.
    """
    if "\0" in text:
        raise DataError(f"{name} is binary (it has NUL bytes): name a UTF-8 text.")
    try:
        require_text(text)
    except JsonError as error:  # only in rows: decoding a file finds the bad bytes of a file
        raise DataError(f"{name} is not text ({error}): leave it out.") from None
    return text
