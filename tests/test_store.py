"""Writing whole or not at all, and folders that one process writes."""

import os
import signal
import time

import pytest

from ropewalk.errors import RunFolderError
from ropewalk.store import FolderLock, clear_partials, follow_umask, link_or_copy, write_atomically


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


@pytest.fixture
def umask():
    """Sets the umask for the length of a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path):
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_what_is_written_has_the_permissions_that_the_umask_gives(tmp_path, umask, mask, mode):
    umask(mask)
    write_atomically(tmp_path / "a", b"new")
    assert mode_of(tmp_path / "a") == mode


def test_what_libraries_wrote_follows_the_umask_but_linked_files_do_not(tmp_path, umask):
    folder, inner = tmp_path / "folder", tmp_path / "folder" / "inner"
    inner.mkdir(parents=True)
    for path in (tmp_path / "elsewhere", folder / "private", inner / "private"):
        path.touch(mode=0o600)
    os.link(tmp_path / "elsewhere", folder / "linked")
    inner.chmod(0o2700)
    umask(0o027)
    follow_umask(folder)
    assert mode_of(folder) == 0o750
    assert mode_of(inner) == 0o2750
    assert mode_of(folder / "private") == mode_of(inner / "private") == 0o640
    assert mode_of(tmp_path / "elsewhere") == 0o600


def test_a_file_is_linked_only_where_others_may_read_it(tmp_path, umask):
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    link_or_copy(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)
    link_or_copy(source, tmp_path / "copied", copy=True)
    source.chmod(0o600)
    link_or_copy(source, tmp_path / "readable")
    for copy in (tmp_path / "copied", tmp_path / "readable"):
        assert not copy.samefile(source)
        assert copy.read_bytes() == b"weights"
        assert mode_of(copy) == 0o644
    assert mode_of(source) == 0o600
    umask(0o077)
    link_or_copy(source, tmp_path / "private")
    assert (tmp_path / "private").samefile(source), "nobody else may read either of them"


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
