import hashlib

import pytest

from ropewalk.store import describe_file, differences_from, hash_file, hash_files, hash_json
from ropewalk.store.hashes import LARGEST_HASHED_BYTES


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b").write_bytes(b"b" * 100)
    (tmp_path / "a").write_bytes(b"a")
    return tmp_path


def test_files_are_named_by_their_place(folder):
    found = hash_files(folder, leave_out=("a",))
    assert found == {"inner/b": hashlib.sha256(b"b" * 100).hexdigest()}
    assert hash_file(folder / "a") == hashlib.sha256(b"a").hexdigest()


def test_each_change_of_a_folder_is_found(folder):
    expected = hash_files(folder)
    assert list(differences_from(folder, expected)) == []
    (folder / "inner" / "b").write_bytes(b"B" + b"b" * 99)
    (folder / "a").unlink()
    (folder / "c").touch()
    found = list(differences_from(folder, expected))
    assert [line.split()[0] for line in found] == ["a", "c", "inner/b"]
    assert [line.split()[0] for line in differences_from(folder, expected, leave_out=("c",))] == [
        "a",
        "inner/b",
    ]


def test_of_a_large_file_the_size_counts(tmp_path):
    (tmp_path / "small").write_bytes(b"x")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGEST_HASHED_BYTES + 1)
    assert describe_file(tmp_path / "large") == {"bytes": LARGEST_HASHED_BYTES + 1}
    assert describe_file(tmp_path / "small") == {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    assert describe_file(tmp_path / "missing") is None


def test_json_values_have_one_hash_in_any_order():
    assert hash_json({"a": 1, "b": [1.5]}) == hash_json({"b": [1.5], "a": 1}) != hash_json({"a": 1, "b": [1]})
