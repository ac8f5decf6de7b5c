"""Files of every format become documents, and a bad row is named."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from text_sources import refused, texts

from ropewalk.text.sources import read_documents


def write(file: Path, text: str) -> str:
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("suffix", [".txt", ".md", ".py", ".TXT"])
def test_a_text_file_is_one_document(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes("\ufeffGrüße\r\nzwei".encode())

    assert texts(file) == ["Grüße\nzwei"]


def test_parquet_rows_have_topics_and_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi", "note": "x"}, {"role": "assistant", "content": "ho"}]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"], "topic": ["knots"], "messages": [messages]}), file)
    (text,) = read_documents(str(file))
    (chat,) = read_documents(str(file), kind="chat")

    assert (text.topic, text.messages) == ("knots", None)
    assert chat.messages == tuple({"role": m["role"], "content": m["content"]} for m in messages)
    assert chat.head(10) == "hi\nho"


def test_each_json_line_is_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one", "id": 1}\n\n{"text": "two"}\n')

    assert texts(file) == ["one", "two"]
    assert [document.head(2) for document in read_documents(str(file))] == ["on", "tw"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"body": "x", "id": 1}', "body, id"),
        ("[1]", "text"),
        ('{"text": 5}', "int"),
        ('{"text": ', "JSON"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_json_line_without_text_is_named(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")

    message = refused(file)
    assert "line 2" in message
    assert expected in message


def test_each_parquet_row_is_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(200)], "n": range(200)}), file)

    assert texts(file) == [f"row {i}" for i in range(200)]


def test_parquet_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), file)
    assert "body, n" in refused(file)

    pq.write_table(pa.table({"text": [1]}), file)
    assert "int" in refused(file)

    file.write_text("not parquet")
    assert "parquet" in refused(file)


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
    monkeypatch.setattr("ropewalk.text.formats.LARGEST_ROW_CHARACTERS", 100)
    file = write(
        tmp_path / "rows.jsonl", json.dumps({"text": "x" * 60}) + "\n" + json.dumps({"text": "x" * 200})
    )
    assert "line 2" in refused(file)


@pytest.mark.parametrize("half", ["\\ud83d", "\\u0000"])
def test_a_chat_that_is_no_text_is_named(tmp_path: Path, half: str) -> None:
    row = '{"messages": [{"role": "user", "content": "' + half + '"}, {"role": "assistant", "content": "b"}]}'
    assert "line 1" in refused(write(tmp_path / "rows.jsonl", row), kind="chat")
