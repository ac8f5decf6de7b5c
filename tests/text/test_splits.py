import json

import pytest

from ropewalk.errors import DataError, SettingError
from ropewalk.text import splits
from ropewalk.text.settings import TextSplit
from ropewalk.text.splits import (
    find_boundary,
    read_search_documents,
    read_test_documents,
    split_documents,
)


@pytest.fixture
def source(tmp_path):
    rows = [{"text": f"{n}: " + "some text. " * 20} for n in range(5)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_validation_documents_are_those_after_the_search_documents(source, tiny_tokenizer):
    text = TextSplit(search=source, test="stdlib", num_documents=3, num_validation_documents=4)
    search, validation = read_search_documents(text, tiny_tokenizer, 64)
    assert (len(search.documents), len(validation.documents)) == (3, 2)
    assert not search.shares_documents_with(validation)
    search, validation = read_search_documents(text, tiny_tokenizer, 64, num_documents=5, num_validation=1)
    assert (len(search.documents), validation) == (5, None)
    search, validation = read_search_documents(text, tiny_tokenizer, 64, num_documents=2, num_validation=0)
    assert (len(search.documents), validation) == (2, None)
    with pytest.raises(DataError, match="5000"):
        read_search_documents(text, tiny_tokenizer, 5000)


@pytest.mark.parametrize(
    ("num_tokens", "counts"), [(0, (1, 1)), (64, (1, 1)), (65, (2, 2)), (128, (2, 2)), (10**6, (2, 2))]
)
def test_short_documents_are_taken_in_greater_numbers_while_there_are_some(
    source, tiny_tokenizer, num_tokens, counts
):
    text = TextSplit(search=source, test="stdlib", num_documents=1, num_validation_documents=1)
    search, validation = read_search_documents(text, tiny_tokenizer, 64, num_tokens=num_tokens)
    assert (len(search.documents), len(validation.documents) >= counts[1]) == (counts[0], True)
    assert not search.shares_documents_with(validation)


def test_stdlib_is_tested_on_its_held_out_part(tiny_tokenizer):
    text = TextSplit(num_documents=2, num_validation_documents=0, num_test_documents=2)
    split = split_documents(text, tiny_tokenizer, 64)
    assert split.test.source == "stdlib:held-out"
    assert list(split.by_role) == ["search", "report"]
    assert len(read_test_documents(text, tiny_tokenizer, 64, num_documents=1).documents) == 1


@pytest.mark.parametrize(
    ("given", "noun"),
    [
        ({"search": "./books", "test": "./books"}, "books"),
        ({"search": "./books", "test": "books/"}, "books"),
        ({"search": "stdlib:held-out"}, "held-out"),
        ({"search": "stdlib:held-out", "test": "stdlib"}, "held-out"),
        ({"num_documents": 0}, "num_documents"),
        ({"num_doucments": 1}, "num_documents"),
    ],
)
def test_one_text_for_searches_and_tests_and_wrong_values_are_refused(given, noun):
    with pytest.raises(SettingError, match=noun):
        TextSplit(**given)


@pytest.fixture
def mixed(tmp_path):
    """Long and short documents by turns: every second one has 64 tokens, all have 16."""
    rows = [{"text": f"{n:02d}: " + "some text. " * (2 if n % 2 else 20)} for n in range(20)]
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def names(documents):
    return [document.name for document in documents.documents]


def test_one_source_is_divided_the_same_at_every_length(mixed, tiny_tokenizer):
    text = TextSplit(search=mixed, num_documents=3, num_validation_documents=1, num_test_documents=5)
    boundary = find_boundary(text, tiny_tokenizer, 64, 4)
    assert boundary == 7, "the fourth long document is the seventh"
    for length in (16, 64):
        search, validation = read_search_documents(text, tiny_tokenizer, length, boundary=boundary)
        test = read_test_documents(text, tiny_tokenizer, length, boundary=boundary)
        assert [len(part.documents) for part in (search, validation, test)] == [3, 1, 5]
        everything = [name for part in (search, validation, test) for name in names(part)]
        assert len(everything) == len(set(everything))
        assert all(int(name.rpartition(" ")[2]) > boundary for name in names(test))
    search, validation = read_search_documents(
        text, tiny_tokenizer, 16, num_documents=30, num_validation=1, boundary=boundary
    )
    assert len(search.documents) == 7
    assert validation is None


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({"num_test_documents": 5}, [10, 4, 5]),
        ({"num_test_documents": 8}, [9, 3, 8]),
        ({"num_test_documents": 15}, [5, 3, 12]),
        ({"num_test_documents": 5, "num_validation_documents": 0}, [10, 5]),
        ({"num_test_documents": 5, "num_validation_documents": 2}, [10, 2, 5]),
        ({"num_test_documents": 5, "num_documents": 5}, [5, 3, 5]),
    ],
)
def test_short_documents_are_more_where_their_number_is_open(
    mixed, tiny_tokenizer, monkeypatch, given, counts
):
    """20 documents have 16 tokens; 10 and 4 are wanted instead of 5 and 3."""
    monkeypatch.setattr(splits, "SEARCH_TOKENS", 160)
    monkeypatch.setattr(splits, "VALIDATION_TOKENS", 64)
    split = split_documents(TextSplit(search=mixed, **given), tiny_tokenizer, 16)
    assert [len(documents.documents) for documents in split.by_role.values()] == counts


def test_at_one_length_the_sets_are_consecutive_and_shrink_from_the_end(mixed, tiny_tokenizer):
    text = TextSplit(search=mixed, num_documents=3, num_validation_documents=2, num_test_documents=9)
    split = split_documents(text, tiny_tokenizer, 64)
    numbers = [
        int(name.rpartition(" ")[2]) for documents in split.by_role.values() for name in names(documents)
    ]
    assert numbers == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert [len(documents.documents) for documents in split.by_role.values()] == [3, 2, 5]
    all_taken = TextSplit(search=mixed, num_documents=9, num_validation_documents=2)
    split = split_documents(all_taken, tiny_tokenizer, 64)
    assert (len(split.validation.documents), split.test) == (1, None)


def test_a_text_that_repeats_itself_is_refused(tmp_path, tiny_tokenizer):
    path = tmp_path / "twice.jsonl"
    path.write_text((json.dumps({"text": "some text. " * 20}) + "\n") * 2)
    with pytest.raises(SettingError, match="num_validation_documents"):
        split_documents(TextSplit(search=str(path), num_documents=1), tiny_tokenizer, 64)


def test_what_a_search_leaves_nothing_of_is_said(mixed, tiny_tokenizer):
    text = TextSplit(search=mixed, num_documents=10)
    boundary = find_boundary(text, tiny_tokenizer, 64, 13)
    with pytest.raises(DataError, match="test"):
        read_test_documents(text, tiny_tokenizer, 64, boundary=boundary)


def test_sources_of_their_own_have_no_boundary(mixed, tiny_tokenizer):
    for text in (TextSplit(), TextSplit(search=mixed, test="./others")):
        assert find_boundary(text, tiny_tokenizer, 64, 4) is None
