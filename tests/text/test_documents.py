import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ropewalk.errors import DataError
from ropewalk.text.documents import read_documents
from ropewalk.text.stdlib import stdlib_files, stdlib_folder


def write(file: Path, text: str) -> str:
    file.write_text(text)
    return str(file)


def texts(source: object, **options: Any) -> list[str]:
    return [document.head(1_000_000) for document in read_documents(str(source), **options)]


def refused(source: object, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        texts(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".txt", ".md", ".py", ".TXT"])
def test_a_text_file_is_one_document(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes("\ufeffGrüße\r\nzwei".encode())

    assert texts(file) == ["Grüße\nzwei"]


def test_blocks_are_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.text.documents.BLOCK_CHARACTERS", 7)
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffGrüße an alle,\r\ndie das lesen".encode())
    (document,) = read_documents(str(file))
    (row,) = read_documents(write(tmp_path / "a.jsonl", '{"text": "a row"}\n'))

    assert "".join(document.blocks()) == document.head(1000)
    assert [len(block) for block in document.blocks()] == [7, 7, 7, 7]
    assert list(row.blocks()) == ["a row"]
    file.write_bytes(b"fine so far \xff")
    with pytest.raises(DataError, match="not UTF-8"):
        list(document.blocks())


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


def test_parquet_rows_have_topics_and_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi", "note": "x"}, {"role": "assistant", "content": "ho"}]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"], "topic": ["knots"], "messages": [messages]}), file)
    (text,) = read_documents(str(file))
    (chat,) = read_documents(str(file), kind="chat")

    assert (text.topic, text.messages) == ("knots", None)
    assert chat.messages == tuple({"role": m["role"], "content": m["content"]} for m in messages)
    assert chat.head(10) == "hi\nho"


def test_only_the_head_is_read(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_bytes(b"abc " * 100_000 + b"\xff\xfe not text")
    (document,) = read_documents(str(file))

    assert document.head(8) == "abc abc "
    with pytest.raises(DataError, match="not UTF-8"):
        document.head(1_000_000)


def test_each_json_line_is_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one", "id": 1}\n\n{"text": "two"}\n')

    assert texts(file) == ["one", "two"]
    assert [document.head(2) for document in read_documents(str(file))] == ["on", "tw"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"body": "x", "id": 1}', "line 2 has no field `text` (the fields body, id)"),
        ("[1]", "line 2 has no field `text` (no fields)"),
        ('{"text": 5}', "line 2 has a `text` that is int"),
        ('{"text": ', "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_a_json_line_without_text_is_named(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")

    assert expected in refused(file)


def test_each_parquet_row_is_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(200)], "n": range(200)}), file)

    assert texts(file) == [f"row {i}" for i in range(200)]


def test_parquet_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), file)
    assert "no field `text` (the fields body, n)" in refused(file)

    pq.write_table(pa.table({"text": [1]}), file)
    assert "is int" in refused(file)

    file.write_text("not parquet")
    assert "not a readable parquet file" in refused(file)


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
    assert "nothing" in refused(tmp_path)
    assert "nothing" in refused(tmp_path / "*.txt")
    (tmp_path / "a.png").write_bytes(b"x")
    assert "other kinds" in refused(tmp_path)
    (tmp_path / "a.txt").touch()
    assert "empty files only" in refused(tmp_path)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    def file(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert "does not exist" in refused(tmp_path / "missing.txt")
    assert "does not exist" in refused("./missing")
    assert "does not exist" in refused("missing")
    assert "does not exist" in refused("a/b/c")
    assert "does not exist" in refused("corpora/missing.jsonl")
    assert "is empty" in refused(file("empty.txt", b""))
    assert "NUL" in refused(file("nul.txt", b"text\0more"))
    assert "not UTF-8" in refused(file("latin.txt", "Grüße".encode("latin-1")))
    assert "not UTF-8" in refused(file("utf16.txt", "text".encode("utf-16")))
    assert "not UTF-8" in refused(file("latin.jsonl", '{"text": "Grüße"}'.encode("latin-1")))
    assert "no kind of text" in refused(file("a.pdf", b"x"))
    assert "empty name" in refused(" ")


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
    assert "not in" in refused("stdlib", folder=tmp_path)


class Hub:
    """Stands in for the `datasets` package."""

    def __init__(self, splits: dict[str, list[Any]]) -> None:
        self.splits = splits
        self.asked: list[Any] = []

    def get_dataset_split_names(self, name: str, config: str | None) -> list[str]:
        if name == "owner/missing":
            raise ConnectionError("could not reach the host\nlong story")
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
    assert "could not reach the host" in refused("owner/missing")
    hub.splits = {"test": [{"content": "x", "id": 1}]}
    assert "(the fields content, id)" in refused("owner/name")
    assert "'nowhere'" in refused("owner/name@nowhere")


def test_json_lines_are_read_lazily(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "one"}) + "\nbroken\n")

    assert next(iter(read_documents(str(file)))).head(3) == "one"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "half a \\ud83d character"}', "surrogate"),
        ('{"text": "fine", "topic": "\\ude00"}', "surrogate"),
        ('{"text": "fine", "\\ud800": 1}', "surrogate"),
        ('{"text": "one", "text": "two"}', "twice"),
        ('{"text": "deep", "more": ' + "[" * 2000 + "]" * 2000 + "}", "nested"),
        ('{"text": "long", "n": ' + "9" * 5000 + "}", "digits"),
        ('{"text": 5}', "string"),
        ('{"text": null}', "string"),
        ('["text"]', "text"),
        ("5", "text"),
        ("{", "JSON"),
        ('{"text": "nul \\u0000"}', "NUL"),
    ],
)
def test_a_row_that_is_no_text_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = write(tmp_path / "rows.jsonl", '{"text": "a good row"}\n' + line + "\n")
    message = refused(file)
    assert "line 2" in message
    assert said in message
    assert len(message) < 500


def test_a_pair_of_surrogates_is_a_character_and_nan_beside_a_text_is_ignored(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", '{"text": "\\ud83d\\ude00", "score": NaN}\n')
    assert texts(file) == ["\U0001f600"]


def test_a_row_longer_than_can_be_held_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.text.documents.LARGEST_ROW_CHARACTERS", 100)
    file = write(
        tmp_path / "rows.jsonl", json.dumps({"text": "x" * 60}) + "\n" + json.dumps({"text": "x" * 200})
    )
    assert "line 2" in refused(file)


@pytest.mark.parametrize("half", ["\\ud83d", "\\u0000"])
def test_a_chat_that_is_no_text_is_named(tmp_path: Path, half: str) -> None:
    row = '{"messages": [{"role": "user", "content": "' + half + '"}, {"role": "assistant", "content": "b"}]}'
    assert "line 1" in refused(write(tmp_path / "rows.jsonl", row), kind="chat")
