"""Copies of a test's process that are killed."""

import os
import signal
import time


def in_a_process(work):
    """The id of a copy of this process that does something, and then waits until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            signal.pause()
        finally:
            os._exit(1)  # whatever is raised: it must not continue as a second run of the tests
    return child


def kill(child):
    """Kills such a copy."""
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def wait_for(found):
    """Waits until a function returns something true."""
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.005)
