import os

import pytest

from ropewalk.store import follow_umask, link_or_copy, write_atomically


@pytest.fixture
def umask():
    """Sets the umask for the length of a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path):
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_permissions_that_the_umask_gives(tmp_path, umask, mask, mode):
    umask(mask)
    write_atomically(tmp_path / "a", b"new")
    assert mode_of(tmp_path / "a") == mode


def test_files_of_libraries_follow_the_umask_but_linked_files_do_not(tmp_path, umask):
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
    assert (tmp_path / "private").samefile(source), "no other user may read either of them"
