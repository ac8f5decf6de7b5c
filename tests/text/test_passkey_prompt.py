import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import SettingError
from ropewalk.text.passkey_prompt import (
    FILLER,
    FIRST_KEY,
    LAST_KEY,
    draw_key,
    is_training_key,
    make_trial,
)
from ropewalk.text.tokens import Encoder

SHORTEST = 253  # tokens of the prompt without filler, for a tokenizer with a token a byte


@given(length=st.integers(SHORTEST, 1000), key=st.integers(10_000, 99_999), depth=st.floats(0, 1))
def test_prompt_and_answer_are_exactly_the_length(
    tiny_tokenizer: Any, length: int, key: int, depth: float
) -> None:
    trial = make_trial(Encoder(tiny_tokenizer), length, key, depth)
    text = tiny_tokenizer.decode(trial.ids)

    assert len(trial.ids) + trial.num_answer_tokens == length
    assert trial.num_answer_tokens == len(f" {key}.")
    assert text.startswith("<s>There is an important info hidden")
    assert text.endswith("\nWhat is the pass key? The pass key is")
    assert text.count(f"\nThe pass key is {key}. Remember it. {key} is the pass key.") == 1


def test_filler_surrounds_the_needle_at_its_depth(tiny_tokenizer: Any) -> None:
    encode = Encoder(tiny_tokenizer)
    starts = []
    for depth in (0.0, 0.5, 1.0):
        text = tiny_tokenizer.decode(make_trial(encode, 1000, 12345, depth).ids)
        starts.append(text.index("\nThe pass key is 12345"))
        whole = text.replace("\nThe pass key is 12345. Remember it. 12345 is the pass key.", "")
        assert whole.count("\n" + FILLER) == (1000 - SHORTEST) // len("\n" + FILLER)

    num_filler = 1000 - SHORTEST
    assert starts[1] - starts[0] == round(num_filler / 2)
    assert starts[2] - starts[0] == num_filler


def test_a_length_without_room_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(SettingError, match=f"needs {SHORTEST} "):
        make_trial(Encoder(tiny_tokenizer), SHORTEST - 1, 12345, 0.5)


def test_one_key_in_sixteen_is_for_training_whatever_its_digits() -> None:
    keys = [key for key in range(FIRST_KEY, LAST_KEY + 1) if is_training_key(key)]

    assert 0.055 < len(keys) / 90_000 < 0.07
    for place in range(5):
        digits = Counter(str(key)[place] for key in keys)
        assert len(digits) == (9 if place == 0 else 10)
        assert max(digits.values()) < 1.3 * min(digits.values())


@given(st.integers(0, 10**9), st.booleans())
def test_keys_are_drawn_from_their_own_part(seed: int, training: bool) -> None:
    key = draw_key(random.Random(seed), training=training)

    assert FIRST_KEY <= key <= LAST_KEY
    assert is_training_key(key) == training


def test_the_last_key_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.text.passkey_prompt.FIRST_KEY", LAST_KEY - 3)
    rng = random.Random(0)
    last = {key for key in range(LAST_KEY - 3, LAST_KEY + 1) if not is_training_key(key)}

    assert LAST_KEY in last
    assert {draw_key(rng) for _ in range(200)} == last
