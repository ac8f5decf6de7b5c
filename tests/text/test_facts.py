"""Where a needle stands, and what it asks for."""

import random
import re
from typing import Any

import pytest
import torch

from ropewalk.errors import SettingError
from ropewalk.search.objectives import NEEDLE_DEPTHS, ObjectiveTask, make_terms
from ropewalk.text.needles import hide, make_needle, needle_windows
from ropewalk.text.tokens import DocumentSet, Encoder, TokenDocument

LENGTH = 200
FACT = re.compile(r"\nThe number of ([a-z]{6}) is (\d{5})\.\n")


def document(name: str = "a") -> TokenDocument:
    """The text xxxx, which no fact has in it."""
    return TokenDocument(name=name, ids=torch.full((300,), 2 + ord("x") - ord("!")))


@pytest.mark.parametrize(("depth", "before"), [(0.0, 1), (0.1, 2), (0.5, 6), (0.9, 10), (1.0, 11)])
def test_a_depth_is_a_share_of_the_text_after_its_first_token(depth: float, before: int) -> None:
    text = list(range(11))
    first, fact, rest = hide(text, [[77, 78]], [depth])
    assert (first, fact, rest) == (text[:before], [77, 78], text[before:])


def test_several_facts_stand_at_their_depths_in_the_text() -> None:
    text = list(range(101))
    parts = list(hide(text, [[-1], [-2], [-3]], [0.25, 0.5, 1.0]))
    assert parts == [text[:26], [-1], text[26:51], [-2], text[51:], [-3], []]


def test_each_window_has_its_fact_at_its_depth_and_asks_for_it(tiny_tokenizer: Any) -> None:
    depths = (0.0, 0.3, 0.5, 1.0)
    windows = needle_windows(document(), LENGTH, depths, Encoder(tiny_tokenizer), random.Random(3))
    assert len({tuple(window.ids.tolist()) for window in windows}) == len(depths)
    for window, depth in zip(windows, depths, strict=True):
        text = tiny_tokenizer.decode(window.ids)
        ((name, value),) = FACT.findall(text)
        asked = f"\nThe number of {name} is {value}."
        num_text = text.count("x")
        assert text.endswith(asked)
        assert tiny_tokenizer.decode(window.ids[-window.num_scored :]) == f" {value}."
        assert text.index("\nThe number") == 1 + round(depth * (num_text - 1))
        assert len(text) == len(window.ids) == LENGTH
        assert LENGTH - num_text == make_needle(name, int(value), Encoder(tiny_tokenizer)).num_tokens


def test_names_differ_and_numbers_have_five_digits_whatever_is_drawn(tiny_tokenizer: Any) -> None:
    encode = Encoder(tiny_tokenizer)
    windows = needle_windows(document(), LENGTH, (0.5,) * 400, encode, random.Random(0))
    facts = [FACT.findall(tiny_tokenizer.decode(window.ids))[0] for window in windows]
    names, values = {name for name, _ in facts}, {value for _, value in facts}
    assert len(names) > 350
    assert len(values) > 390
    assert {value[0] for value in values} == set("123456789")


def test_the_shortest_length_has_two_tokens_of_text(tiny_tokenizer: Any) -> None:
    encode = Encoder(tiny_tokenizer)
    shortest = make_needle("badefi", 12345, encode).num_tokens + 2
    (window,) = needle_windows(document(), shortest, (1.0,), encode, random.Random(0))
    assert tiny_tokenizer.decode(window.ids).startswith("xx\nThe number of")
    with pytest.raises(SettingError, match="does not fit"):
        needle_windows(document(), shortest - 1, (1.0,), encode, random.Random(0))


def test_five_documents_have_each_depth_twice(tiny_tokenizer: Any) -> None:
    documents = DocumentSet(
        documents=tuple(document(name) for name in "abcde"), num_read=5, num_too_short=0, source="x",
        data_sha256="",
    )  # fmt: skip
    task = ObjectiveTask(
        documents=documents, tokenizer=tiny_tokenizer, original_length=64, target_length=LENGTH, seed=0
    )
    (term,) = make_terms("needle", task)
    found = []
    for windows in term.windows:
        texts = [tiny_tokenizer.decode(window.ids) for window in windows]
        depths = [(text.index("\nThe number") - 1) / (text.count("x") - 1) for text in texts]
        assert len(set(depths)) == 2, "two different ones in a document"
        found += [round(depth, 1) for depth in depths]
    assert len(set(found[:4])) == 4, "and the next document has others"
    assert sorted(found) == sorted(NEEDLE_DEPTHS * 2)
