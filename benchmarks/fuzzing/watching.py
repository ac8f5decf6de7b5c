"""One case under watch: its time, what it writes, and how it ends."""

import contextlib
import faulthandler
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.cli.main import run
from ropewalk.errors import RecipeError, RopewalkError

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of `sys.addaudithook` that change a path: where among their arguments paths stand.
CHANGES = {
    "os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.link": (0, 1),
    "os.symlink": (1,), "os.truncate": (0,), "os.chmod": (0,), "os.chown": (0,), "os.utime": (0,),
}  # fmt: skip
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")
LOCAL = ("127.0.0.1", "localhost", "::1")


class Hang(BaseException):
    """Time ran out; no `except Exception` may take it for a mistake of the input's."""


class UnexpectedEndError(AssertionError):
    """An ending that is neither a value nor a refusal in one line."""


@dataclass(frozen=True)
class Ending:
    """How a case ended.

    Attributes:
        kind: `value`, `refused` (in one line), or a failure: `crash`, `hang`, `outside`.
        said: the refusal, or what a failure says of itself.
    """

    kind: str
    said: str = ""

    @property
    def is_failure(self) -> bool:
        return self.kind not in ("value", "refused")


class Watch:
    """Notes what happens outside of one folder: files written, programs started, other machines called.

    The hook can't be taken out of a process again; without a folder it looks at nothing.
    """

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        self._is_hooked = False

    @contextlib.contextmanager
    def within(self, folder: Path) -> Iterator[None]:
        if not self._is_hooked:
            sys.addaudithook(self._hook)
            self._is_hooked = True
        self.folder = folder.resolve()
        try:
            yield
        finally:
            self.folder = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES:
                self._require_inside(event, path)
        elif event in CHANGES:
            for index in CHANGES[event]:
                self._require_inside(event, arguments[index])
        elif event in PROGRAMS:
            self._note(f"{event} {arguments[0] if arguments else ''}")
        elif event == "socket.getaddrinfo" and arguments[0] not in LOCAL:
            self._note(f"{event} {arguments[0]}")

    def _require_inside(self, event: str, path: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        place = Path(os.fsdecode(path)).absolute()
        # The last step itself may be a link that is made or replaced.
        real = place.parent.resolve() / place.name
        if str(place) != os.devnull and not real.is_relative_to(self.folder or real):
            self._note(f"{event} {place}")

    def _note(self, what: str) -> None:
        self.seen.append(what)
        raise PermissionError(f"not allowed: {what}")


watch = Watch()


def try_case(attempt: Callable[[], str], folder: Path, seconds: float) -> Ending:
    """Run a case, whose result is `value` or `refused`, in the main thread."""
    watch.seen.clear()
    faulthandler.dump_traceback_later(4 * seconds, exit=True)  # where even the alarm is not heard
    try:
        with watch.within(folder), _alarm(seconds):
            ending = Ending(attempt())
    except Hang:
        ending = Ending("hang", f"more than {seconds:g} s in {_place()}")
    except RopewalkError as error:
        ending = _refusal(error)
    except Exception as error:  # what a case must not end in
        ending = Ending("crash", f"{type(error).__name__}: {str(error)[:200]} in {_place()}")
    finally:
        faulthandler.cancel_dump_traceback_later()
    return Ending("outside", "; ".join(watch.seen)[:300]) if watch.seen else ending


def by_command(*arguments: object) -> str:
    """Run a command line in this process; `value` for exit code 0.

    Raises:
        RopewalkError: exit code 2 with one line, as which it is raised again.
        UnexpectedEndError: another exit code, or no single line that says what was wrong.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    if code == 0:
        return "value"
    lines = err.getvalue().splitlines()
    complaints = [line for line in lines if line.startswith("ropewalk: ")]
    many = arguments[0] in ("recipe", "extend")  # a line for each mistake
    if (
        code != 2
        or not complaints
        or (len(complaints) > 1 and not many)
        or not lines[-1].startswith("ropewalk: ")
    ):
        raise UnexpectedEndError(f"exit code {code}, and {len(lines)} lines: {err.getvalue()[-150:]!r}")
    raise RopewalkError(complaints[-1])


def _refusal(error: RopewalkError) -> Ending:
    if isinstance(error, RecipeError) or len(str(error).splitlines()) == 1:
        return Ending("refused", str(error)[:200])
    return Ending("crash", f"a message of {len(str(error).splitlines())} lines: {str(error)[:200]!r}")


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _place() -> str:
    """The innermost place of ours in the traceback at hand."""
    frames = [frame for frame in traceback.extract_tb(sys.exc_info()[2]) if frame.name != "ring"]
    ours = [frame for frame in frames if "/ropewalk/" in frame.filename]
    where = (ours or frames)[-1]
    return f"{Path(where.filename).name}:{where.lineno} {where.name}"
