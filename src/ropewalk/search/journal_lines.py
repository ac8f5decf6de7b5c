"""How the lines of a journal are written, and how damage to one is noticed."""

import hashlib
import json
from typing import Any

from ropewalk.strict_json import parse_json

FORMAT_VERSION = 2
VERSIONS = (1, FORMAT_VERSION)  # that are read; a journal is continued in its own

JsonObject = dict[str, Any]


class DamagedLine(ValueError):  # noqa: N818 (the journal makes a RunFolderError of it)
    """A line that is not what was written."""


class Lines:
    """Writes and reads the lines of one journal, in their order.

    From version 2 each line ends with a checksum of itself and of the line before it: a byte that changed on
    the disk is noticed, and so is a line that is missing or in another place.
    """

    MARK = b', "checksum": "'

    def __init__(self, version: int = FORMAT_VERSION, *, after: bytes = b"") -> None:
        """`after`: the checksum of the line before."""
        self.version = version
        self.last = after

    def write(self, values: JsonObject) -> bytes:
        """The next line, with its newline."""
        content = json.dumps(values, allow_nan=False).encode()
        if self.version == 1:
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
        if self.version > 1 and seal != checksum + b'"}':
            raise DamagedLine
        try:
            values = parse_json(line)
        except ValueError:
            raise DamagedLine from None
        if not isinstance(values, dict):
            raise DamagedLine
        if self.version > 1:
            del values["checksum"]
            self.last = checksum
        return _without_racing(values)

    def _checksum(self, body: bytes) -> bytes:
        return hashlib.sha256(self.last + body).hexdigest()[:16].encode()


def _without_racing(line: JsonObject) -> JsonObject:
    """A line without what searches wrote that could drop a candidate early (racing).

    The opening then says the racing error, and a dropped trial its estimated value. A search in which nothing
    was dropped is resumed as any other; one with a dropped trial is refused at that trial.
    """
    line.pop("estimate", None)
    if isinstance(line.get("identity"), dict):
        line["identity"].pop("racing", None)
    return line
