"""Documents: their beginning and their whole text, read from the disk as needed."""

from pathlib import Path

import pytest

from ropewalk.errors import DataError
from ropewalk.text.documents import Document
from ropewalk.text.sources import read_documents


def test_blocks_are_the_whole_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.text.formats.BLOCK_CHARACTERS", 7)
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffGrüße an alle,\r\ndie das lesen".encode())
    (document,) = read_documents(str(file))
    (tmp_path / "a.jsonl").write_text('{"text": "a row"}\n')
    (row,) = read_documents(str(tmp_path / "a.jsonl"))

    assert "".join(document.blocks()) == document.head(1000)
    assert [len(block) for block in document.blocks()] == [7, 7, 7, 7]
    assert list(row.blocks()) == ["a row"]
    file.write_bytes(b"fine so far \xff")
    with pytest.raises(DataError, match="UTF-8"):
        list(document.blocks())


def test_only_the_head_is_read(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_bytes(b"abc " * 100_000 + b"\xff\xfe not text")
    (document,) = read_documents(str(file))

    assert document.head(8) == "abc abc "
    with pytest.raises(DataError, match="UTF-8"):
        document.head(1_000_000)


def test_a_fingerprint_changes_with_a_files_size_and_a_rows_text(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    prints = []
    for content in ("one", "four"):
        file.write_text(content)
        (document,) = read_documents(str(file))
        prints.append(document.fingerprint())
    rows = [Document(name="row", head=lambda n, text=text: text[:n]).fingerprint() for text in ("one", "two")]

    assert prints[0] == [str(file), 3]
    assert prints[1] == [str(file), 4]
    assert rows[0] != rows[1]


def test_a_file_that_is_gone_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("x")
    (document,) = read_documents(str(file))
    file.unlink()
    for read in (document.fingerprint, lambda: document.head(1), lambda: list(document.blocks())):
        with pytest.raises(DataError, match=r"a\.txt") as error:
            read()
        assert "\n" not in str(error.value)
