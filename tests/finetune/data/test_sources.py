"""A source: which documents it gives, by their lengths, and what the check of its first documents refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_rows import write_rows

from ropewalk.errors import DataError, RopewalkError, SettingError
from ropewalk.finetune.data.joining import read_groups
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.settings import SourceSettings
from ropewalk.finetune.data.sources import Source, check_source
from ropewalk.text.tokens import Encoder

PACKING = Packing(bos=None, eos=None, length=8)


def source(tokenizer: Any, text: object, **settings: Any) -> Source:
    return Source(SourceSettings(name="mine", text=str(text), **settings), Encoder(tokenizer))


def texts(source: Source, tokenizer: Any) -> list[str]:
    documents = map(source.document, read_groups(source.settings))
    return [tokenizer.decode(document.ids) for document in documents if document is not None]


def refused(error: type[RopewalkError], tokenizer: Any, text: object, noun: str, **settings: Any) -> None:
    with pytest.raises(error, match=noun) as caught:
        check_source(source(tokenizer, text, **settings), PACKING)
    assert "\n" not in str(caught.value)


def test_min_and_max_tokens_are_included(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *({"text": "x" * n} for n in range(1, 9)))

    def lengths(**bucket: int) -> list[int]:
        return [len(text) for text in texts(source(tiny_tokenizer, file, **bucket), tiny_tokenizer)]

    assert lengths(min_tokens=3, max_tokens=5) == [3, 4, 5]
    assert lengths(min_tokens=7) == [7, 8]
    assert lengths(max_tokens=2) == [1, 2]


def test_joined_documents_have_a_blank_line_between_them(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *({"text": t, "topic": "x"} for t in ("one", "two")))
    joined = source(tiny_tokenizer, file, join="topic", min_tokens=8, max_tokens=8)
    assert texts(joined, tiny_tokenizer) == ["one\n\ntwo"]


def test_a_long_text_is_read_in_stretches(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropewalk.text.formats.BLOCK_CHARACTERS", 50)
    whole = "".join(f"line {n} of a long text\n" for n in range(30)) + "w" * 200 + " and an end"
    (tmp_path / "a.txt").write_text(whole)
    mine = source(tiny_tokenizer, tmp_path / "a.txt")
    assert texts(mine, tiny_tokenizer) == [whole]
    (group,) = read_groups(mine.settings)
    head = mine.document(group, limit=64)
    assert head is not None
    assert 64 <= len(head.ids) < 150


# ---------------------------------------------------------------- the check


def test_the_check_finds_the_longest_document(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", {"text": "abc"}, {"text": "abcde"}, {"text": "a"})
    assert check_source(source(tiny_tokenizer, file), PACKING).longest == 5
    file = write_rows(tmp_path / "rows.jsonl", {"text": "abc"}, {"text": "abcdefghijkl"})
    assert check_source(source(tiny_tokenizer, file), PACKING).longest == 8


def test_the_check_stops_at_a_document_as_long_as_a_segment(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [json.dumps({"text": "a long row"}) for _ in range(256)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, "not JSON"]))
    assert check_source(source(tiny_tokenizer, tmp_path / "rows.jsonl"), PACKING).longest == 8


def test_a_block_has_more_documents_where_these_are_shorter(tiny_tokenizer: Any, tmp_path: Path) -> None:
    blocks = []
    for length in (1, 100, 10**6):
        file = write_rows(tmp_path / "rows.jsonl", *({"text": "x" * length} for _ in range(3)))
        blocks.append(check_source(source(tiny_tokenizer, file), PACKING).block)
    assert blocks == [32 * 8 * 4, 11, 1]


def test_the_beginning_is_of_rows_and_of_names_and_sizes_of_files(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    def beginning(text: Path) -> str:
        return check_source(source(tiny_tokenizer, text), PACKING).beginning

    rows = write_rows(tmp_path / "rows.jsonl", {"text": "one"}, {"text": "two"})
    before = beginning(rows)
    write_rows(rows, {"text": "one"}, {"text": "tow"})
    assert beginning(rows) != before

    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("text")
    before = beginning(folder)
    (folder / "1.txt").write_text("text.")
    longer = beginning(folder)
    (folder / "2.txt").unlink()
    assert len({before, longer, beginning(folder)}) == 3


def test_a_source_without_usable_documents_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    short = write_rows(tmp_path / "short.jsonl", {"text": "abc"}, {"text": "abcd"})
    refused(DataError, tiny_tokenizer, short, "5 to more tokens", min_tokens=5)
    refused(DataError, tiny_tokenizer, short, "1 to 2 tokens", max_tokens=2)
    refused(DataError, tiny_tokenizer, short, "after its first 9", skip=9)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    refused(DataError, tiny_tokenizer, empty, "no document")
    empty.write_text('{"text": ""}\n')
    refused(DataError, tiny_tokenizer, empty, "no document")
    refused(DataError, tiny_tokenizer, tmp_path / "missing.txt", "missing.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfd")
    refused(DataError, tiny_tokenizer, tmp_path / "bytes.txt", "UTF-8")


def test_a_budget_below_a_segment_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"text": "abc"})
    refused(SettingError, tiny_tokenizer, rows, "budget", tokens=7)
    assert check_source(source(tiny_tokenizer, rows, tokens=8), PACKING)


@pytest.mark.parametrize("text", ["stdlib:search", "stdlib:held-out", "stdlib:held_out"])
def test_text_for_measuring_is_refused(tiny_tokenizer: Any, text: str) -> None:
    refused(SettingError, tiny_tokenizer, text, "measuring")
