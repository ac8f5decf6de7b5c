"""Copies of a test's process that are killed."""

import os
import signal
import time
from contextlib import contextmanager


@contextmanager
def killed_process(work):
    """A copy of this process that does something and waits; it is killed at the end of the `with` block."""
    child = os.fork()
    if child == 0:
        try:
            work()
            signal.pause()
        finally:
            os._exit(1)  # whatever is raised: it must not continue as a second run of the tests
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def wait_for(found):
    """Waits until a function returns something true."""
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.005)
