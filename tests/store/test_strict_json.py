"""What Python's own reader of JSON lets through, and ours does not."""

import json
import math

import pytest

from ropewalk.store.strict_json import DEEPEST, JsonError, parse_json


@pytest.mark.parametrize(
    "value", [None, 1, -1, 2**128, 0.1, "é 😀", [], {"a": {"b": [1, {"c": None}]}}, [[]] * 1000]
)
@pytest.mark.parametrize("as_given", [str, str.encode], ids=["text", "bytes"])
def test_what_is_written_is_read(value, as_given):
    for ascii_only in (True, False):
        assert parse_json(as_given(json.dumps(value, ensure_ascii=ascii_only))) == value


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("{", "line 1"), ("", "line 1"), ("1 2", "line 1"), ("\ufeff{}", "BOM"), (b"\xff", "UTF-8"),
        ('{"a": 1, "b": 2, "a": 1}', "'a'"), ('[{"x": {"a": 1, "a": 2}}]', "'a'"),
        ("NaN", "NaN"), ("[-Infinity]", "Infinity"), ("1e999", "too large"), ("-1e999", "too large"),
        ("9" * 65, "digits"), ("9" * 5000, "digits"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested"), ('{"a":' * 100 + "1" + "}" * 100, "nested"),
        ("[" * 100_000, "nested"), ("[" * 100_000 + "]" * 100_000, "nested"),
        ('"\\ud800"', "surrogate"), ('{"\\udfff": 1}', "surrogate"), ('[["\\ude00\\ud83d"]]', "surrogate"),
    ],
    ids=lambda value: str(value)[:12] if len(value) < 13 else None,
)  # fmt: skip
def test_what_no_file_holds_is_refused(text, noun):
    with pytest.raises(JsonError, match=noun) as error:
        parse_json(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


def test_the_deepest_is_read():
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)


def test_nan_is_read_where_it_may_be():
    assert math.isnan(parse_json("NaN", allow_nan=True))
