import errno
import fcntl
import subprocess
import sys

import pytest
from processes import killed_process, wait_for

from ropewalk.errors import RunFolderError
from ropewalk.store import Lock


def fail_with(number):
    def flock(*_):
        raise OSError(number, "flock")

    return flock


@pytest.fixture(params=["flock", "no flock"])
def file_system(request, monkeypatch):
    """One with locks, and one without."""
    if request.param == "no flock":
        monkeypatch.setattr("fcntl.flock", fail_with(errno.ENOSYS))


def refusal(path):
    with pytest.raises(RunFolderError) as error:
        Lock(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("file_system")
def test_a_folder_or_a_file_has_one_writer_at_a_time(tmp_path):
    for path in (tmp_path, tmp_path / "journal.jsonl"):
        with Lock(path):
            assert "in use" in refusal(path)
        assert list(tmp_path.iterdir()) == [], "a released lock leaves nothing"
        Lock(path).close()


@pytest.mark.usefixtures("file_system")
def test_a_lock_ends_with_its_process(tmp_path):
    folder, is_taken = tmp_path / "run", tmp_path / "taken"
    folder.mkdir()
    held = []

    def take():
        held.append(Lock(folder))
        is_taken.touch()

    with killed_process(take):
        wait_for(is_taken.exists)
        assert "in use" in refusal(folder)
    Lock(folder).close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_that_does_not_support_locks_is_one_without(tmp_path, monkeypatch, number):
    monkeypatch.setattr("fcntl.flock", fail_with(number))
    with Lock(tmp_path):
        assert "in use" in refusal(tmp_path)


def test_a_file_that_is_the_lock_can_be_removed_by_the_user(tmp_path, monkeypatch):
    """After a crash of another machine, whose processes this one does not see."""
    monkeypatch.setattr("fcntl.flock", fail_with(errno.ENOSYS))
    (tmp_path / ".lock-exists").write_text("1\nanother-machine\n")
    assert ".lock-exists" in refusal(tmp_path)
    (tmp_path / ".lock-exists").unlink()
    Lock(tmp_path).close()


def test_where_no_lock_is_to_be_had_another_folder_is_the_way_out(tmp_path, monkeypatch):
    """ENOLCK may be true of this moment only: a file in its place could admit a second process."""
    monkeypatch.setattr("fcntl.flock", fail_with(errno.ENOLCK))
    assert "local disk" in refusal(tmp_path)


def test_a_lock_on_a_file_that_is_gone_is_none(tmp_path, monkeypatch):
    """Between our open and our lock, the process that had it may have removed the file."""
    locked = fcntl.flock

    def removed_first(file, how):
        (tmp_path / ".lock").unlink(missing_ok=True)
        locked(file, how)

    monkeypatch.setattr("fcntl.flock", removed_first)
    assert "in use" in refusal(tmp_path)


def test_a_missing_folder_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError):
        Lock(tmp_path / "missing" / "journal.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_without_fcntl_the_package_is_imported(tmp_path):
    """As on Windows."""
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        "import ropewalk, ropewalk.search.journal; from pathlib import Path\n"
        "from ropewalk.store import Lock; Lock(Path(sys.argv[1])).close()\n"
        "print(ropewalk.RescaleFactors.__name__)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "RescaleFactors", done.stderr
