"""Every way to name a text, and what is refused before anything is read."""

import sys
from pathlib import Path
from typing import Any

import pytest
from text_sources import refused, texts

from ropewalk.errors import DataError
from ropewalk.text.sources import read_documents
from ropewalk.text.stdlib import stdlib_files, stdlib_folder


def test_documents_say_their_folder_and_topic(tmp_path: Path) -> None:
    for name in ("a/b/1.txt", "b.txt", "c/2.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "d.jsonl").write_text('{"text": "x", "topic": "knots"}\n')

    def folders(source: object, **options: Any) -> list[str]:
        return [document.folder for document in read_documents(str(source), **options)]

    root = str(tmp_path)
    assert folders(tmp_path) == [f"{root}/a", root, f"{root}/c", root]
    assert folders(tmp_path, by_folder=True) == [root, root, f"{root}/a", f"{root}/c"]
    assert folders(tmp_path / "*" / "*.txt") == [f"{root}/c"]
    assert folders(tmp_path / "b.txt") == [""]
    assert [document.topic for document in read_documents(str(tmp_path))] == ["", "", "", "knots"]


def test_a_folder_gives_its_texts_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.txt").write_text("one")
    (tmp_path / "a.md").write_text("zero")
    (tmp_path / "c.jsonl").write_text('{"text": "two"}\n')
    (tmp_path / "d.png").write_bytes(b"\0")
    (tmp_path / "e.txt").write_text("")

    assert texts(tmp_path) == ["zero", "one", "two"]
    assert texts(tmp_path / "**" / "*.txt") == ["one"]


def test_a_name_with_glob_characters_can_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a[1].txt"
    file.write_text("x")

    assert texts(file) == ["x"]


def test_a_folder_or_pattern_without_text_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refused(tmp_path)
    assert "*.txt" in refused(tmp_path / "*.txt")
    (tmp_path / "a.png").write_bytes(b"x")
    assert "formats" in refused(tmp_path)
    (tmp_path / "a.txt").touch()
    assert "empty" in refused(tmp_path)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    def file(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert "missing.txt" in refused(tmp_path / "missing.txt")
    assert "./missing" in refused("./missing")
    assert "missing" in refused("missing")
    assert "a/b/c" in refused("a/b/c")
    assert "missing.jsonl" in refused("corpora/missing.jsonl")
    assert "empty.txt" in refused(file("empty.txt", b""))
    assert "NUL" in refused(file("nul.txt", b"text\0more"))
    assert "UTF-8" in refused(file("latin.txt", "Grüße".encode("latin-1")))
    assert "UTF-8" in refused(file("utf16.txt", "text".encode("utf-16")))
    assert "UTF-8" in refused(file("latin.jsonl", '{"text": "Grüße"}'.encode("latin-1")))
    assert "a.pdf" in refused(file("a.pdf", b"x"))
    assert "name" in refused(" ")


def test_a_loop_of_links_is_an_error_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "a.txt")

    assert "a.txt" in refused(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("source", "split", "expected"),
    [
        ("stdlib", "search", "search"),
        ("stdlib", "held_out", "held_out"),
        ("stdlib:search", "held_out", "search"),
        ("stdlib:held-out", "search", "held_out"),
        ("stdlib", "train", "train"),
        ("stdlib:train", "train", "train"),
        ("stdlib:search", "train", "search"),
    ],
)
def test_stdlib_says_its_split(source: str, split: Any, expected: Any) -> None:
    names = [document.name for document in read_documents(source, split=split)]
    files = [file for file in stdlib_files(expected) if file.stat().st_size > 0]

    assert names == [f"stdlib/{file.relative_to(stdlib_folder())}" for file in files]


def test_a_wrong_source_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for source in ("stdlib:train", str(tmp_path / "missing.txt"), str(tmp_path), " "):
        with pytest.raises(DataError):
            read_documents(source)


def test_other_parts_of_the_library_are_refused(tmp_path: Path) -> None:
    assert "stdlib:train" in refused("stdlib:train")
    assert str(tmp_path) in refused("stdlib", folder=tmp_path)


class Hub:
    """Stands in for the `datasets` package."""

    def __init__(self, splits: dict[str, list[Any]]) -> None:
        self.splits = splits
        self.asked: list[Any] = []

    def get_dataset_split_names(self, name: str, config: str | None) -> list[str]:
        if name == "owner/missing":
            raise ConnectionError("could not reach the host\nand more")
        return list(self.splits)

    def load_dataset(self, name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        assert streaming
        self.asked.append((name, config, split))
        return iter(self.splits[split])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    parts = {"train": "t", "validation": "v", "test": "xy"}
    stand_in = Hub({part: [{"text": letter} for letter in letters] for part, letters in parts.items()})
    monkeypatch.setitem(sys.modules, "datasets", stand_in)  # type: ignore[arg-type]
    return stand_in


def test_a_hub_data_set_is_streamed(hub: Hub) -> None:
    assert texts("owner/name", split="search") == ["v"]
    assert texts("owner/name", split="held_out") == ["x", "y"]
    assert texts("owner/name:config@train") == ["t"]
    assert texts("owner/name", split="train") == ["t"]
    assert hub.asked == [
        ("owner/name", None, "validation"),
        ("owner/name", None, "test"),
        ("owner/name", "config", "train"),
        ("owner/name", None, "train"),
    ]


def test_hub_mistakes_are_one_line(hub: Hub) -> None:
    assert "host" in refused("owner/missing")
    hub.splits = {"test": [{"content": "x", "id": 1}]}
    assert "content, id" in refused("owner/name")
    assert "'nowhere'" in refused("owner/name@nowhere")
