import errno
import os
import signal

import pytest
from processes import killed_process, wait_for

from ropewalk.store import atomic_file, atomic_folder, clear_partials, read_bounded, write_atomically
from ropewalk.store.files import partial_path, remove_folder


def test_what_a_killed_writer_left_is_cleared(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("before")
    monkeypatch.setattr(os, "fsync", lambda _: signal.pause())  # in the middle of writing
    with killed_process(lambda: write_atomically(tmp_path / "a.json", b"after")):
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
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


def test_what_a_killed_writer_of_a_folder_left_is_cleared(tmp_path):
    def write():
        with atomic_folder(tmp_path / "model") as partial:
            (partial / "weights").touch()
            signal.pause()

    with killed_process(write):
        wait_for(lambda: list(tmp_path.glob("*/weights")))
    (tmp_path / ".result.partial").mkdir()  # a name that a group of processes shares
    clear_partials(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writing", [atomic_file, atomic_folder])
def test_an_exception_leaves_nothing(tmp_path, writing):
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "a"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_existing_place_is_replaced_only_on_request(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "folder", replace=True) as partial:
            (partial / content).touch()
        with atomic_file(tmp_path / "file", replace=True) as partial:
            partial.write_text(content)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["new"]
    assert (tmp_path / "file").read_text() == "new"
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "folder"):
        pass
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "file", replace=False):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "new"


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """A power cut after the rename must not leave an empty file."""
    synced, place = [], tmp_path / "folder"
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(place.exists()), sync(descriptor)))
    with atomic_folder(place) as partial:
        (partial / "a").write_text("x")
    assert synced == [False, False, True], "the file, its folder, and after the rename the parent"


def test_a_full_disk_leaves_the_file_before(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_atomically(tmp_path / "a", b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_atomically(tmp_path / "a", b"after")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_folder_is_hidden_before_it_is_removed(tmp_path, monkeypatch):
    (tmp_path / "checkpoint").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda folder: None)  # as if it were killed before
    remove_folder(tmp_path / "checkpoint")
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".")
    monkeypatch.undo()
    clear_partials(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_fill_one_folder_agree_on_its_name(tmp_path):
    path = tmp_path / "checkpoint-2"
    assert partial_path(path, unique=False) == partial_path(path, unique=False)
    assert partial_path(path) != partial_path(path)


def test_a_large_file_a_pipe_and_a_device_are_not_read(tmp_path):
    (tmp_path / "large").write_bytes(b"12345")
    os.mkfifo(tmp_path / "pipe")
    for path, limit in ((tmp_path / "large", 4), (tmp_path / "pipe", 4)):
        with pytest.raises(OSError, match=r"larger|pipe"):
            read_bounded(path, limit)
    assert read_bounded(tmp_path / "large", 5) == b"12345"
