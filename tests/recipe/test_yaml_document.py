from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import RecipeError
from ropewalk.recipe.yaml_document import read_yaml, with_changes

TEXT = """\
# a comment
model:
  name: scale-model

stages:
  - kind: search
    name: first
    length: 8x
  - {kind: evaluate, perplexity: [1x, 2048]}
"""


def lines_of(error):
    assert all("\n" not in line for line in error.value.lines)
    return error.value.lines


def test_values_and_their_lines():
    document = read_yaml(TEXT, "mine.yaml")
    assert document.values["stages"][0] == {"kind": "search", "name": "first", "length": "8x"}
    assert document.values["stages"][1]["perplexity"] == ["1x", 2048]
    assert document.place(("model", "name")) == "line 3"
    assert document.place(("stages", 0, "length")) == "line 8"
    assert document.place(("stages", 1, "perplexity", 1)) == "line 9"
    assert document.place(("stages", 0, "not-there")) == "line 6", "the thing around it"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1e-4", 1e-4), ("2.0e-5", 2e-5), ("3", 3), ("-3", -3), ("1.5", 1.5), (".5", 0.5), ("017", 17),
        ("8x", "8x"), ("32k", "32k"), ("'3'", "3"), ("yes", True), ("none", "none"), ("null", None),
        ("~", None), ("12:30", "12:30"), ("2026-11-25", "2026-11-25"), ("0x10", "0x10"), ("e4", "e4"),
        (".", "."), ("1_000", "1_000"), ("", None),
    ],
)  # fmt: skip
def test_scalars_are_what_people_mean(written, read):
    found = read_yaml(f"key: {written}\n", "mine.yaml").values["key"]
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("- a\n", "mapping"),
        ("a: [1\nb: 2\n", "this is not YAML"),
        ("a: 1\nb: 2\na: 3\n", "line 3: a: "),
        ("a:\n  b: 1\n  b: 2\n", "line 3: a.b: "),
        ("a: &x 1\nb: *x\n", "anchor"),
        ("a: !!python/object/apply:os.system [ls]\n", "the tag"),
        ("a: !include b\n", "the tag"),
        ("<<: {a: 1}\n", "key"),
        ("? [a]\n: 1\n", "key"),
        ("a: 1\n---\nb: 2\n", "line 2: "),
        ("a: \x00\n", "this is not YAML"),
        ("a: " + "[" * 5000, "nested deeper than 32"),
        ("a: " + "x" * 2**20, "longer than"),
    ],
)
def test_what_is_no_recipe_is_said_with_its_line(text, said):
    with pytest.raises(RecipeError) as error:
        read_yaml(text, "mine.yaml")
    assert said in lines_of(error)[0]
    assert lines_of(error)[0].startswith("mine.yaml, ")


@given(text=st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    with suppress(RecipeError):
        read_yaml(text, "mine.yaml")


def test_set_changes_adds_and_says_where_a_value_came_from():
    changes = [
        "model.name=other",
        "stages.0.length=[1, 2]",
        "stages.first.budget=12",
        "search.seed=3",
        "a.b.c=x=y",
    ]
    document = with_changes(read_yaml(TEXT, "mine.yaml"), changes)
    assert document.values["model"] == {"name": "other"}
    assert document.values["stages"][0] == {"kind": "search", "name": "first", "length": [1, 2], "budget": 12}
    assert document.values["search"] == {"seed": 3}
    assert document.values["a"]["b"]["c"] == "x=y"
    assert document.place(("model", "name")) == "--set model.name=other"
    assert document.place(("stages", 0, "length", 1)) == "--set stages.0.length=[1, 2]"
    assert read_yaml(TEXT, "mine.yaml").values["model"] == {"name": "scale-model"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.name", "key=value"),
        ("=3", "key=value"),
        ("a..b=3", "key=value"),
        ("a=[1", "is not YAML"),
        ("a=&x 1", "is not YAML"),
        ("model.name.first=3", "model.name"),
        ("stages.7.length=3", "'7'"),
        ("stages.second.length=3", "no entry 'second'"),
    ],
)
def test_what_can_not_be_set(change, said):
    with pytest.raises(RecipeError) as error:
        with_changes(read_yaml(TEXT, "mine.yaml"), [change, "also wrong"])
    assert said in lines_of(error)[0]
    assert f"--set {change}" in lines_of(error)[0]
    assert len(lines_of(error)) == 2


@pytest.mark.parametrize(
    ("value", "noun"),
    [
        ("9" * 5000, "digits"), ("1e999", "too large"), ("-1e999", "too large"), ('"\\ud800"', "surrogate"),
        ("[" * 5000, "YAML"), ("{a: 1, a: 2}", "twice"),
    ],
    ids=["digits", "large", "small", "half", "deep", "twice"],
)  # fmt: skip
def test_values_that_no_recipe_holds_are_refused_wherever_they_stand(value, noun):
    with pytest.raises(RecipeError) as error:
        read_yaml(f"model: {{name: x}}\nsearch:\n  budget: {value}\n", "mine.yaml")
    document = read_yaml("model: {name: x}\n", "mine.yaml")
    with pytest.raises(RecipeError) as changed:
        with_changes(document, [f"search.budget={value}"])
    for caught in (error, changed):
        assert len(caught.value.lines) == 1
        assert len(caught.value.lines[0]) < 400
        assert "\n" not in caught.value.lines[0]
    assert noun in str(error.value) or noun == "YAML"


@pytest.mark.parametrize(
    "key", ["a." * 3000 + "b", "stages." + "9" * 5000, "stages." + "9" * 400 + ".length"]
)
def test_keys_that_no_recipe_has_are_refused(key):
    document = read_yaml("stages: [{kind: search}]\n", "mine.yaml")
    with pytest.raises(RecipeError):
        with_changes(document, [f"{key}=1"])
