"""Folders and patterns with link cycles, and with entries that are not files."""

import glob
import os
import socket
from pathlib import Path

import pytest

from ropewalk.errors import DataError
from ropewalk.text.folders import files_below, files_matching
from ropewalk.text.sources import read_documents


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("some text")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    write(root, "a.txt", "b.md", "d/c.txt", "d/e/f.txt", "g/h.txt", ".hidden/i.txt", "d/.j.txt", "[k]/l.txt")
    return root


PATTERNS = [
    "*", "**", "**/*", "*.txt", "**/*.txt", "d/**", "d/**/*.txt", "*/c.txt", "d/*", "**/e/*", "**/**/*.txt",
    "?.txt", "[ab].*", "d/e/f.txt", "**/.j.txt", ".*/*", "no/**", "no/*.txt", "d/../*.txt", "./*.txt",
    "[[]k]/*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_to_the_module_glob(
    tree: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    for given in (pattern, str(tree / pattern)):
        expected = {path for path in map(Path, glob.glob(given, recursive=True)) if path.is_file()}  # noqa: PTH207
        assert files_matching(given) == sorted(expected)


def test_a_folder_gives_the_files_that_rglob_gives(tree: Path) -> None:
    assert files_below(tree) == [file for file in sorted(tree.rglob("*")) if file.is_file()]


@pytest.fixture
def cycles(tree: Path) -> Path:
    """Links to parents at every level, so that following each would never end."""
    (tree / "d" / "up").symlink_to(tree)
    (tree / "d" / "e" / "up").symlink_to(tree / "d")
    (tree / "g" / "up").symlink_to("..")
    (tree / "g" / "self").symlink_to("self")
    (tree / "g" / "gone").symlink_to("nowhere")
    for number in range(5):
        (tree / f"loop-{number}").symlink_to(".")
    return tree


@pytest.mark.parametrize("pattern", ["**", "**/*.txt", "**/**/**/*.txt", "d/**", "**/up/**"])
def test_link_cycles_end(cycles: Path, pattern: str) -> None:
    found = files_matching(str(cycles / pattern))
    assert {path.name for path in found} >= {"c.txt", "f.txt"}
    assert len(found) < 100


def test_a_linked_folder_is_read_once_and_under_its_own_name(tmp_path: Path) -> None:
    write(tmp_path, "real/a.txt", "shelf/b.txt")
    (tmp_path / "shelf" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "shelf" / "again").symlink_to(tmp_path / "real")
    found = files_matching(str(tmp_path / "shelf" / "**" / "*.txt"))
    assert [path.name for path in found] == ["a.txt", "b.txt"]
    assert files_matching(str(tmp_path / "**" / "*.txt")) == [
        tmp_path / "real/a.txt",
        tmp_path / "shelf/b.txt",
    ]


@pytest.mark.parametrize("source", ["", "**", "**/*.txt"])
def test_entries_that_are_not_files_are_left_out(cycles: Path, source: str) -> None:
    os.mkfifo(cycles / "pipe.txt")
    (cycles / "zeros.txt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(cycles / "socket.txt"))  # short enough for a socket's name
        names = [Path(document.name).name for document in read_documents(f"{cycles}/{source}")]
    assert set(names) >= {"a.txt", "c.txt", "f.txt", "h.txt", "l.txt"}
    assert not {"pipe.txt", "zeros.txt", "socket.txt"} & set(names)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_named_pipe_or_device_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.txt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="device"):
        list(read_documents(str(path)))


def test_a_folder_that_can_not_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def refused(place):
        if Path(place).name == "e":
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr("os.scandir", refused)
    for source in (tree, tree / "**"):
        with pytest.raises(DataError, match="Permission"):
            list(read_documents(str(source)))


@pytest.mark.parametrize(
    "source",
    [
        "x" * 5000,
        "a/" * 3000 + "b.txt",
        "a/" * 3000 + "*.txt",
        "~no-such-user/a.txt",
        "a\0b",
        "a\0*",
        "**/\0",
    ],
)
def test_a_name_that_no_system_takes_is_one_line(source: str) -> None:
    with pytest.raises(DataError) as error:
        list(read_documents(source))
    assert "\n" not in str(error.value)
