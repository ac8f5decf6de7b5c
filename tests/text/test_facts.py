"""Where facts stand in a text, which tokens are its own, and that every wording has an answer."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import SettingError
from ropewalk.text.facts import (
    KEY_KINDS,
    MOST_DIGITS,
    VALUE_KINDS,
    Fact,
    FactText,
    draw_facts,
    draw_key,
    draw_value,
    fact_text,
    hide,
)
from ropewalk.text.tokens import Encoder
from ropewalk.text.wordings import HELD_OUT_WORDINGS, NAMES, SURNAMES, WORDINGS, WORDS, Wording

EVERY_WORDING = (*WORDINGS, *HELD_OUT_WORDINGS)
LONGEST = 1000  # more than any seven facts with their questions, at a token per byte


@pytest.fixture(scope="module")
def encode(tiny_tokenizer: Any) -> Encoder:
    return Encoder(tiny_tokenizer)


def document(encode: Encoder) -> list[int]:
    """BOS and the text ^^^^, of which no fact has a character."""
    return [*encode.start, *encode("^" * LONGEST)]


# ---------------------------------------------------------------- positions


@pytest.mark.parametrize(("depth", "before"), [(0.0, 1), (0.1, 2), (0.5, 6), (0.9, 10), (1.0, 11)])
def test_a_depth_is_a_share_of_the_text_after_its_first_token(depth: float, before: int) -> None:
    text = list(range(11))
    first, fact, rest = hide(text, [[77, 78]], [depth])
    assert (first, fact, rest) == (text[:before], [77, 78], text[before:])


def test_several_facts_stand_at_their_depths_in_the_text() -> None:
    text = list(range(101))
    parts = list(hide(text, [[-1], [-2], [-3]], [0.25, 0.5, 1.0]))
    assert parts == [text[:26], [-1], text[26:51], [-2], text[51:], [-3], []]


def made(encode: Encoder, seed: int, num_facts: int, num_questions: int, length: int) -> FactText:
    rng = random.Random(seed)
    facts = draw_facts(num_facts, rng, wordings=EVERY_WORDING)
    depths = sorted(rng.random() for _ in facts)
    questions = rng.sample(range(num_facts), num_questions)
    return fact_text(document(encode), length, facts, depths, questions, encode)


@given(seed=st.integers(0, 10**6), num_facts=st.integers(1, 6), data=st.data())
def test_all_positions_decode_to_what_they_are_of(
    encode: Encoder, seed: int, num_facts: int, data: Any
) -> None:
    num_questions = data.draw(st.integers(1, num_facts))
    length = data.draw(st.integers(LONGEST - 50, LONGEST))
    found = made(encode, seed, num_facts, num_questions, length)

    def text_at(positions: Any) -> str:
        return str(encode.tokenizer.decode([found.ids[position] for position in positions]))

    assert len(found.ids) == length
    assert found.ids[0] == encode.start[0]
    assert set(text_at(found.text)) == {"^"}
    assert text_at(range(length)).count("^") == len(found.text), "the whole text is scored, without BOS"
    assert [text_at(answer) for answer in found.answers] == [fact.answer for fact, _ in found.asked]
    assert len(found.values) == num_facts
    for fact, _ in found.asked:
        assert fact.value in {text_at(value) for value in found.values}
        statement, question = fact.statement, fact.question + fact.answer
        whole = text_at(range(length))
        assert 0 < whole.index(statement) < whole.rindex(question)


@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_a_fact_stands_at_its_depth_and_an_unasked_one_too(encode: Encoder, depth: float) -> None:
    first, second = draw_facts(2, random.Random(1))
    found = fact_text(document(encode), 400, [first, second], [depth, 1.0], [1], encode)
    text = encode.tokenizer.decode(found.ids[1:])
    num_text = text.count("^")
    assert text.index(first.statement) == round(depth * num_text)
    assert text.endswith(second.statement + second.question + second.answer)
    assert found.asked == ((second, 1.0),)


def test_the_shortest_length_has_two_tokens_of_text(encode: Encoder) -> None:
    facts = draw_facts(2, random.Random(0))
    parts = [facts[0].statement, facts[1].statement, facts[1].question, facts[1].answer]
    shortest = len("".join(parts)) + 2
    found = fact_text(document(encode), shortest, facts, [1.0, 1.0], [1], encode)
    assert encode.tokenizer.decode(found.ids) == "<s>^" + "".join(parts)
    with pytest.raises(SettingError, match="facts"):
        fact_text(document(encode), shortest - 1, facts, [1.0, 1.0], [1], encode)


def test_values_are_found_where_tokens_are_longer_than_characters(scale_tokenizer: Any) -> None:
    encode, rng = Encoder(scale_tokenizer), random.Random(2)
    around = encode("import this\n" * 200)
    for fact in draw_facts(200, rng, wordings=EVERY_WORDING):
        found = fact_text(around, 256, [fact], [0.5], [0], encode)
        ((value,), (answer,)) = (
            [scale_tokenizer.decode([found.ids[at] for at in positions]) for positions in part]
            for part in (found.values, found.answers)
        )
        assert fact.value in value
        assert len(value) <= len(fact.value) + 3, "and hardly anything around it"
        assert answer == fact.answer


# ---------------------------------------------------------------- draws


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_keys_and_values_differ_and_follow_from_the_seed(seed: int, count: int) -> None:
    facts, again = (draw_facts(count, random.Random(seed)) for _ in range(2))
    assert facts == again
    assert len({fact.key for fact in facts}) == len({fact.value for fact in facts}) == count
    assert {fact.wording for fact in facts} <= set(WORDINGS)


def test_every_kind_is_drawn() -> None:
    rng = random.Random(0)
    names, identifiers = ([draw_key(kind, rng) for _ in range(300)] for kind in KEY_KINDS)
    numbers, words, hexadecimals = ([draw_value(kind, rng) for _ in range(300)] for kind in VALUE_KINDS)
    assert all(name.split(" ")[0] in NAMES and name.split(" ")[1] in SURNAMES for name in names)
    assert all(set(identifier.split("_")) <= set(WORDS) for identifier in identifiers)
    assert {len(str(int(number))) for number in numbers} == set(range(3, MOST_DIGITS + 1))
    assert set(words) <= set(WORDS)
    assert all(len(value) == 6 and int(value, 16) for value in hexadecimals)
    assert not any(value.isdigit() for value in hexadecimals)
    assert all(len(set(drawn)) > 80 for drawn in (names, identifiers, numbers, words, hexadecimals))


# ---------------------------------------------------------------- wordings


@pytest.mark.parametrize("wording", EVERY_WORDING, ids=lambda wording: wording.name)
def test_the_statement_has_the_answer_and_the_question_does_not(wording: Wording) -> None:
    fact = Fact(wording=wording, key="Nina Falk", value="b3a91c")
    assert fact.statement.count("Nina Falk") == fact.statement.count("b3a91c") == 1
    assert fact.question.count("Nina Falk") == 1
    assert "b3a91c" not in fact.question
    assert fact.answer == " b3a91c" + wording.end
    for text in (fact.statement, fact.question):
        assert text.startswith("\n")
        assert "{" not in text.replace('{"', ""), "no field is left"
    assert not fact.question.endswith(" "), "the answer has the space"


def test_held_out_wordings_share_no_sentence_with_the_others() -> None:
    for part in ("name", "statement", "question"):
        known, held_out = ({getattr(w, part) for w in group} for group in (WORDINGS, HELD_OUT_WORDINGS))
        assert (len(known), len(held_out)) == (len(WORDINGS), len(HELD_OUT_WORDINGS)), part
        assert not known & held_out
