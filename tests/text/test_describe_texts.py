import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import DataError
from ropewalk.text.describe import _buckets, describe_texts


def write_rows(file: Path, *texts: str) -> str:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def words(start: int, stop: int) -> str:
    return " ".join(f"w{number}" for number in range(start, stop))


def test_documents_tokens_and_lengths_are_counted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", *("x" * n for n in (100, 200, 256, 257, 2000)))
    told: list[tuple[int, int]] = []
    found = describe_texts([source], tiny_tokenizer, on_document=lambda *counts: told.append(counts))

    assert (found.num_documents, found.num_tokens) == (5, 2813)
    assert (found.lengths[0.0], found.lengths[0.5], found.lengths[1.0]) == (100, 256, 2000)
    assert [(b.above, b.up_to, b.num_documents, b.num_tokens) for b in found.buckets] == [
        (0, 256, 3, 556), (256, 512, 1, 257), (512, 1024, 0, 0), (1024, 2048, 1, 2000),
    ]  # fmt: skip
    assert told == [(1, 100), (2, 300), (3, 556), (4, 813), (5, 2813)]
    assert (found.num_shared, found.num_stretches, found.overlaps) == (None, None, ())


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40))
def test_every_document_is_in_one_bucket(lengths: list[int]) -> None:
    buckets = _buckets(lengths)

    assert sum(bucket.num_documents for bucket in buckets) == len(lengths)
    assert sum(bucket.num_tokens for bucket in buckets) == sum(lengths)
    assert buckets[0].num_documents
    assert buckets[-1].num_documents
    assert all(one.up_to == other.above for one, other in pairwise(buckets))


def test_near_duplicates_are_found_and_others_are_not(tiny_tokenizer: Any, tmp_path: Path) -> None:
    texts = [
        words(0, 300),
        words(1000, 1300),
        words(0, 295) + " and another end",  # much like the first
        words(0, 150) + " " + words(2000, 2150),  # half like it
        words(1000, 1300).upper() + "!",  # like the second but for case and signs
        "a few words",
        "A few words.",
        "!",
        "?",
    ]
    source = write_rows(tmp_path / "a.jsonl", *texts)
    found = describe_texts([source], tiny_tokenizer)
    lines = [
        (int(pair.document.split()[-1]), int(pair.earlier.split()[-1])) for pair in found.near_duplicates
    ]

    assert lines == [(3, 1), (5, 2), (7, 6)]
    assert found.near_duplicates[0].similarity > 0.85
    assert found.near_duplicates[1].similarity == 1
    assert found.near_duplicates[0].num_tokens == len(texts[2])
    assert describe_texts([source], tiny_tokenizer) == found


def test_overlap_is_the_share_of_stretches_that_evaluation_text_holds(
    tiny_tokenizer: Any, tmp_path: Path
) -> None:
    held_out = write_rows(tmp_path / "held-out.jsonl", words(0, 100))
    source = write_rows(
        tmp_path / "a.jsonl", words(50, 150), words(0, 12) + " x " + words(200, 300), words(20, 40), "short"
    )
    found = describe_texts([source], tiny_tokenizer, against=[held_out])

    # 100 words have 88 stretches of 13; of the first document's 38 are known; 12 words in a row are none.
    assert (found.num_shared, found.num_stretches) == (38 + 8, 88 + 101 + 8)
    assert [(o.document.split()[-1], o.share) for o in found.overlaps] == [("3", 1.0), ("1", 38 / 88)]


def test_documents_are_counted_as_they_are_joined(tiny_tokenizer: Any, tmp_path: Path) -> None:
    for name in ("a/1.txt", "a/2.txt", "b/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * 10)
    found = describe_texts([str(tmp_path)], tiny_tokenizer, join="folder")

    assert (found.num_documents, found.num_tokens) == (2, 32)
    assert found.lengths[1.0] == 22


def test_no_more_documents_than_asked_are_read(tiny_tokenizer: Any, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.jsonl", "one", "two")
    with Path(source).open("a") as file:
        file.write("not JSON\n")

    assert describe_texts([source, source], tiny_tokenizer, num_documents=2).num_documents == 4
    with pytest.raises(DataError, match="line 3 is not JSON"):
        describe_texts([source], tiny_tokenizer)


def test_texts_without_a_document_are_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")

    with pytest.raises(DataError, match="no document in there"):
        describe_texts([str(tmp_path / "a.jsonl")], tiny_tokenizer)


def test_a_text_of_no_tokens_is_described(tiny_tokenizer: Any, tmp_path: Path) -> None:
    found = describe_texts([write_rows(tmp_path / "a.jsonl", "")], tiny_tokenizer)

    assert (found.num_documents, found.num_tokens, len(found.buckets)) == (1, 0, 1)
