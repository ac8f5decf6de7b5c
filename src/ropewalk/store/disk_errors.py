"""One line for an error of the disk: what was given, what happened, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ropewalk.errors import RopewalkError

LONGEST_REASON = 160  # characters
ELSEWHERE = "free some space, or choose another place"


@contextmanager
def disk_errors(
    path: str | Path,
    error: type[RopewalkError],
    *,
    remedy: str = ELSEWHERE,
    action: Literal["written", "read"] = "written",
    also: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turns an OSError in the `with` block into a one-line error of the package.

    Args:
        path: the file or folder that the message names.
        error: the class to raise.
        remedy: what the user can do, as the end of a sentence.
        action: what could not be done to the path.
        also: exceptions of libraries that report errors of the disk by classes of their own.

    Raises:
        RopewalkError: of the class `error`.
    """
    try:
        yield
    except Exception as found:
        if not isinstance(found, (OSError, *also)):
            raise
        raise error(f"{path} can't be {action} ({reason_of(found)}): {remedy}.") from found


def reason_of(error: Exception) -> str:
    """What the system says about an error, in one short line without a full stop."""
    of_system = getattr(error, "strerror", None)
    words = " ".join(str(of_system or error).split())[:LONGEST_REASON].rstrip(".") or type(error).__name__
    return words[0].lower() + words[1:] if of_system else words
