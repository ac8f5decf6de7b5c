import pytest

from ropewalk.errors import FinetuneError
from ropewalk.store import differences, require_same_run, without_places

IDENTITY = {
    "model": {
        "name": "a",
        "revision": None,
        "weights_sha256": "12",
        "where": {"device": "cpu", "revision": "x"},
    },
    "text": {"source": "a.txt", "data_sha256": "34"},
    "space": {"start_tokens": (0, 4)},
}


def test_differences_of_nested_values():
    assert differences({"a": 1, "b": {"c": [1]}}, {"a": 1.0, "b": {"c": [1]}}) == []
    found = differences({"a": 1, "d": {"e": 1}}, {"b": None, "c": 2, "d": {"e": 2}})
    assert [line.split()[0] for line in found] == ["a", "d.e", "c"]
    [line] = differences({"a": "x" * 1000}, {"a": "y" * 1000})
    assert len(line) < 200


def test_the_same_content_in_another_place_is_the_same_run():
    moved = {
        "model": {
            **IDENTITY["model"],
            "name": "b",
            "revision": "1",
            "where": {"device": "cpu", "revision": None},
        },
        "text": {**IDENTITY["text"], "source": "b.txt"},
        "space": {"start_tokens": [0, 4]},  # as a file returns it
    }
    require_same_run("run", IDENTITY, moved, FinetuneError)
    moved["text"]["data_sha256"] = "56"
    with pytest.raises(FinetuneError, match=r"text\.data_sha256") as error:
        require_same_run("run", IDENTITY, moved, FinetuneError)
    assert "\n" not in str(error.value)
    assert "model" not in str(error.value)


def test_without_a_hash_the_place_is_the_content():
    unhashed = {"model": {"name": "a"}, "text": {"search": "a.txt"}}
    assert without_places(unhashed) == unhashed
    other = {"model": {"name": "b"}, "text": {"search": "b.txt"}}
    with pytest.raises(FinetuneError, match=r"model\.name"):
        require_same_run("run", unhashed, other, FinetuneError)
    require_same_run("run", unhashed, other, FinetuneError, by_hash=False)


@pytest.mark.parametrize("begun", [None, [], "x"])
def test_an_identity_that_is_none_is_refused(begun):
    with pytest.raises(FinetuneError, match="folder"):
        require_same_run("run", IDENTITY, begun, FinetuneError)
