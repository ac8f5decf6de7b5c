import json

import pytest
from pydantic import ValidationError

from ropewalk.errors import DataError
from ropewalk.text.splits import TextSettings


@pytest.fixture
def source(tmp_path):
    rows = [{"text": f"{n}: " + "some text. " * 20} for n in range(5)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_stop_documents_are_those_after_the_search_documents(source, tiny_tokenizer):
    text = TextSettings(search=source, report="stdlib", num_documents=3, num_stop_documents=4)
    search, stop = text.for_search(tiny_tokenizer, 64)
    assert (len(search.documents), len(stop.documents)) == (3, 2)
    assert not search.shares_documents_with(stop)
    search, stop = text.for_search(tiny_tokenizer, 64, 5, 1)
    assert (len(search.documents), stop) == (5, None)
    search, stop = text.for_search(tiny_tokenizer, 64, 2, 0)
    assert (len(search.documents), stop) == (2, None)
    with pytest.raises(DataError, match="no document of 5000 tokens"):
        text.for_search(tiny_tokenizer, 5000)


@pytest.mark.parametrize(
    ("num_tokens", "counts"), [(0, (1, 1)), (64, (1, 1)), (65, (2, 2)), (128, (2, 2)), (10**6, (2, 2))]
)
def test_short_documents_are_taken_in_greater_numbers_while_there_are_some(
    source, tiny_tokenizer, num_tokens, counts
):
    text = TextSettings(search=source, report="stdlib", num_documents=1, num_stop_documents=1)
    search, stop = text.for_search(tiny_tokenizer, 64, num_tokens=num_tokens)
    assert (len(search.documents), len(stop.documents) >= counts[1]) == (counts[0], True)
    assert not search.shares_documents_with(stop)


def test_stdlib_is_reported_on_in_its_held_out_part(tiny_tokenizer):
    text = TextSettings(num_report_documents=2)
    report = text.for_report(tiny_tokenizer, 64)
    search, _ = text.for_search(tiny_tokenizer, 64, 2, 0)
    assert report.source == "stdlib:held-out"
    assert not report.shares_documents_with(search)
    assert len(text.for_report(tiny_tokenizer, 64, 1).documents) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"search": "./books", "report": "./books"}, "both searched in and reported on"),
        ({"search": "./books", "report": "books/"}, "both searched in and reported on"),
        ({"search": "stdlib:held-out"}, "both searched"),
        ({"search": "stdlib:held-out", "report": "stdlib:held-out"}, "both searched"),
        ({"num_documents": 0}, "greater than or equal to 1"),
    ],
)
def test_what_is_searched_is_not_reported_on(given, said):
    with pytest.raises(ValidationError, match=said):
        TextSettings(**given)


@pytest.fixture
def mixed(tmp_path):
    """Long and short documents by turns: every second one has 64 tokens, all have 16."""
    rows = [{"text": f"{n:02d}: " + "some text. " * (2 if n % 2 else 20)} for n in range(20)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_one_source_is_parted_the_same_at_every_length(mixed, tiny_tokenizer):
    text = TextSettings(search=mixed, num_documents=3, num_stop_documents=1, num_report_documents=5)
    border = text.border(tiny_tokenizer, 64, 4)
    assert border == 7, "the fourth long document is the seventh"

    def names(documents):
        return {document.name for document in documents.documents}

    for length in (16, 64):
        search, stop = text.for_search(tiny_tokenizer, length, border=border)
        report = text.for_report(tiny_tokenizer, length, border=border)
        assert (len(search.documents), len(stop.documents), len(report.documents)) == (3, 1, 5)
        everything = [name for part in (search, stop, report) for name in names(part)]
        assert len(everything) == len(set(everything))
        assert all(int(name.rpartition(" ")[2]) > border for name in names(report))
    search, stop = text.for_search(tiny_tokenizer, 16, 30, 1, border=border)
    assert len(search.documents) == 7
    assert stop is None


def test_what_a_search_leaves_nothing_of_is_said(mixed, tiny_tokenizer):
    text = TextSettings(search=mixed, num_documents=10)
    border = text.border(tiny_tokenizer, 64, 13)
    with pytest.raises(DataError, match="report on"):
        text.for_report(tiny_tokenizer, 64, border=border)


def test_sources_of_their_own_have_no_border(mixed, tiny_tokenizer):
    for text in (TextSettings(), TextSettings(search=mixed, report="./others")):
        assert text.border(tiny_tokenizer, 64, 4) is None
