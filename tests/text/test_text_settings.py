import json

import pytest
from pydantic import ValidationError

from ropewalk.errors import DataError
from ropewalk.text.settings import TextSettings


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
        ({"search": "./books"}, "names no others"),
        ({"search": "./books", "report": "./books"}, "both searched in and reported on"),
        ({"search": "stdlib:held-out", "report": "stdlib:held-out"}, "both searched"),
        ({"num_documents": 0}, "greater than or equal to 1"),
    ],
)
def test_what_is_searched_is_not_reported_on(given, said):
    with pytest.raises(ValidationError, match=said):
        TextSettings(**given)
