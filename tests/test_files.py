"""Writing whole or not at all, and folders that one process writes."""

import os
import signal
import time

import pytest

from ropewalk.errors import RunFolderError
from ropewalk.files import FolderLock, clear_partials, write_atomically


def in_a_process(work):
    """A copy of this process that does something until it is killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            signal.pause()
        finally:
            os._exit(1)  # whatever is raised: it must not go on as a second run of the tests
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def wait_for(found):
    deadline = time.monotonic() + 30
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_a_killed_writer_left_is_cleared(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("before")
    monkeypatch.setattr(os, "fsync", lambda _: signal.pause())  # in the middle of writing
    child = in_a_process(lambda: write_atomically(tmp_path / "a.json", b"after"))
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    kill(child)
    others = {".b.json.x.partial", ".keep", "c.partial", ".d"}
    for name in others - {".d"}:
        (tmp_path / name).touch()
    (tmp_path / ".d").mkdir()
    clear_partials(tmp_path, "a.json")
    assert {path.name for path in tmp_path.iterdir()} == others | {"a.json"}
    assert (tmp_path / "a.json").read_text() == "before"
    clear_partials(tmp_path)
    assert not (tmp_path / ".b.json.x.partial").exists()
    clear_partials(tmp_path / "nowhere")


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with FolderLock(tmp_path), pytest.raises(RunFolderError, match="is in use by another process") as error:
        FolderLock(tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [], "nothing is left of a lock that was given free"
    FolderLock(tmp_path).close()


def test_a_lock_dies_with_its_process(tmp_path):
    folder, is_taken = tmp_path / "run", tmp_path / "taken"
    folder.mkdir()
    held = []

    def take():
        held.append(FolderLock(folder))
        is_taken.touch()

    child = in_a_process(take)
    wait_for(is_taken.exists)
    with pytest.raises(RunFolderError, match="is in use by another process"):
        FolderLock(folder)
    kill(child)
    FolderLock(folder).close()
