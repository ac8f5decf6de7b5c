"""An append-only file of JSON lines that survives a kill, a full disk and a power cut.

A line counts once its newline is written; what follows the last newline is torn, and is cut off. From
version 2 on each line ends with a checksum of itself and of the line before it, which shows a byte that
changed on the disk, and a line that is missing or in another place. A file is continued in its own version.
"""

import hashlib
import json
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.store.files import bring_to_disk
from ropewalk.store.lock import Lock
from ropewalk.store.strict_json import parse_json

CHECKSUMS_SINCE = 2  # version

JsonObject = dict[str, Any]


class DamagedLine(ValueError):  # noqa: N818 (the reader makes a RunFolderError of it)
    """A line that is not what was written."""


class ChecksummedLines:
    """Writes and reads the lines of one file, in their order.

    Args:
        version: of the file.
        after: the checksum of the line before.
    """

    MARK = b', "checksum": "'

    def __init__(self, version: int = CHECKSUMS_SINCE, *, after: bytes = b"") -> None:
        self.version = version
        self.last = after

    def copy(self) -> "ChecksummedLines":
        """The same place in the same file."""
        return ChecksummedLines(self.version, after=self.last)

    def write(self, values: JsonObject) -> bytes:
        """The next line, with its newline."""
        content = json.dumps(values, allow_nan=False).encode()
        if self.version < CHECKSUMS_SINCE:
            return content + b"\n"
        body = content.removesuffix(b"}")
        self.last = self._checksum(body)
        return body + self.MARK + self.last + b'"}\n'

    def read(self, line: bytes) -> JsonObject:
        """The values of the next line, which is given without its newline.

        Raises:
            DamagedLine: it is no JSON object, or not the one that was written there.
        """
        body, _, seal = line.rpartition(self.MARK)
        checksum = self._checksum(body)
        has_checksums = self.version >= CHECKSUMS_SINCE
        if has_checksums and seal != checksum + b'"}':
            raise DamagedLine
        try:
            values = parse_json(line)
        except ValueError:
            raise DamagedLine from None
        if not isinstance(values, dict):
            raise DamagedLine
        if has_checksums:
            del values["checksum"]
            self.last = checksum
        return values

    def _checksum(self, body: bytes) -> bytes:
        return hashlib.sha256(self.last + body).hexdigest()[:16].encode()


class LineFile:
    """A file of lines, open for one process; `close` removes it if it is empty.

    Args:
        path: the file; it is created if missing.
        lock: false where the caller has locked the folder.

    Raises:
        RunFolderError: another process uses it, or it is a pipe or a device.
        OSError: it can't be opened.
    """

    def __init__(self, path: Path, *, lock: bool = True) -> None:
        self.path = path
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise RunFolderError(f"{path} is a pipe or a device: choose another folder.")
        self._lock = Lock(path) if lock else None
        try:
            # Unbuffered: what could not be written must not be written again at close.
            self.raw: FileIO = path.open("a+b", buffering=0)
        except BaseException:
            self._release()
            raise

    def read(self) -> bytes:
        """The whole content."""
        self.raw.seek(0)
        return self.raw.read()

    def append(self, content: bytes) -> None:
        """Writes whole lines to the disk.

        Raises:
            OSError: they can't be written; the file then ends as before.
        """
        end = self.raw.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self.raw.write(content) :]
            os.fsync(self.raw.fileno())
            if end == 0:
                bring_to_disk(self.path.parent)
        except OSError:
            with suppress(OSError):  # what remains is torn, and cut off when the file is opened again
                self.raw.truncate(end)
            raise

    def truncate(self, num_bytes: int) -> None:
        """Cuts off what follows `num_bytes`.

        Raises:
            OSError: the file can't be written.
        """
        self.raw.truncate(num_bytes)
        os.fsync(self.raw.fileno())

    def close(self) -> None:
        """Closes the file and releases it."""
        if self.raw.closed:
            return
        is_empty = self.raw.seek(0, os.SEEK_END) == 0
        self.raw.close()
        if is_empty:
            self.path.unlink(missing_ok=True)
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()


def whole_lines(content: bytes) -> list[bytes]:
    """The lines of a file's content without their newlines; a torn last line is not among them."""
    return content.split(b"\n")[:-1]
