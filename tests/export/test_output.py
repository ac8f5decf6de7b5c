import errno

import pytest

from ropewalk.errors import ExportError
from ropewalk.export.output import new_file, new_folder


def fill(partial):
    if partial.is_dir():
        (partial / "config.json").write_text("{}")
    else:
        partial.write_text("{}")


@pytest.fixture(params=[new_file, new_folder])
def new(request):
    return request.param


def test_missing_parents_are_created_and_nothing_else_is_left(new, tmp_path):
    with new(tmp_path / "a" / "b") as partial:
        fill(partial)
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("moment", ["before", "since"])
def test_an_existing_place_is_left_alone(new, tmp_path, moment):
    """Also one that another process fills in the meantime."""
    out = tmp_path / "out"
    if moment == "before":
        out.write_text("mine")
    with pytest.raises(ExportError, match=r"out exists"), new(out) as partial:
        fill(partial)
        out.write_text("mine")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_a_link_to_nowhere_is_a_place_that_is_taken(new, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError, match="exists"), new(tmp_path / "out"):
        pass


def test_a_full_disk_is_one_line_and_leaves_nothing(new, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ExportError, match="space") as error, new(tmp_path / "out") as partial:
        fill(partial)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_one_line(new, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="file") as error, new(tmp_path / "file" / "out"):
        pass
    assert "\n" not in str(error.value)
