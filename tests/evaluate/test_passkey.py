from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from ropewalk.errors import SettingError
from ropewalk.evaluate import lm_head, passkey
from ropewalk.evaluate.answers import PasskeyAnswer, first_integer
from ropewalk.evaluate.depths import evenly_spread
from ropewalk.evaluate.passkey import answers, make_trials, measure_passkey
from ropewalk.models.model import load_model
from ropewalk.models.scale_model import SCALE_MODEL
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.passkey_prompt import PasskeyTrial, is_training_key
from ropewalk.text.tokens import Encoder


def test_keys_follow_from_seed_and_length(tiny_tokenizer: Any) -> None:
    def keys(length: int, seed: int) -> list[int]:
        return [trial.key for trial in make_trials(Encoder(tiny_tokenizer), length, 12, seed)]

    assert keys(400, 1) == keys(400, 1)
    assert keys(400, 1) != keys(400, 2)
    assert keys(400, 1) != keys(500, 1)
    assert all(10_000 <= key <= 99_999 for key in keys(400, 1))
    assert len(set(keys(400, 1))) == 12


@given(seed=st.integers(0, 10**6), length=st.sampled_from([256, 300, 384]))
def test_no_key_is_one_that_training_may_have_shown(tiny_tokenizer: Any, seed: int, length: int) -> None:
    trials = make_trials(Encoder(tiny_tokenizer), length, 20, seed)

    assert not any(is_training_key(trial.key) for trial in trials)


def test_depths_are_evenly_spread(tiny_tokenizer: Any) -> None:
    assert evenly_spread(1) == [0.5]
    assert evenly_spread(5) == [0, 0.25, 0.5, 0.75, 1]
    depths = [trial.depth for trial in make_trials(Encoder(tiny_tokenizer), 400, 20, 0)]
    assert sorted(depths) == sorted(evenly_spread(10) * 2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 12345.", "12345"),
        ("12345</s>", "12345"),
        (" the key 12 and 34", "12"),
        ("123456", "123456"),
        (" none", None),
        ("", None),
    ],
)
def test_the_first_integer_counts(text: str, expected: str | None) -> None:
    assert first_integer(text) == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" 12345.", True),
        (" the key is 12345, not 54321", True),
        (" 912345.", False),
        (" 123456.", False),
        (" 54321 12345.", False),
        (" 012345.", False),
        (" 12 345.", False),
        (" 1234", False),
        ("", False),
    ],
)
def test_a_key_is_found_if_the_first_integer_is_the_key_itself(text: str, found: bool) -> None:
    assert PasskeyAnswer(factors="x", length=256, key=12345, depth=0.5, text=text).is_found == found


@torch.no_grad()
def greedy(model: LlamaForCausalLM, ids: tuple[int, ...], num_tokens: int) -> list[int]:
    """Token by token, without a cache."""
    read = list(ids)
    for _ in range(num_tokens):
        read.append(int(model(torch.tensor([read])).logits[0, -1].argmax()))
    return read[len(ids) :]


@pytest.mark.parametrize("read_chunk", [16, 10_000])
def test_answers_are_greedy(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, read_chunk: int
) -> None:
    monkeypatch.setattr("ropewalk.evaluate.greedy.READ_CHUNK", read_chunk)
    generator = torch.Generator().manual_seed(0)
    trials = [
        PasskeyTrial(
            key=i,
            depth=0,
            num_answer_tokens=5,
            ids=tuple(torch.randint(258, (n,), generator=generator).tolist()),
        )
        for i, n in enumerate([40, 30, 40, 30, 30])
    ]
    found = dict(answers(tiny_model, tiny_tokenizer, trials))

    assert set(found) == set(trials)
    for trial, text in found.items():
        expected = tiny_tokenizer.decode(greedy(tiny_model, trial.ids, 5))
        assert text
        assert expected.startswith(text)


def test_a_prompt_that_was_read_just_before_is_answered_alike(
    tiny_model_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last token is read again, for there the answer begins."""
    monkeypatch.setattr(passkey, "TOKENS_PER_BATCH", 1)
    loaded = load_model(tiny_model_folder)
    ids = tuple(range(2, 42))
    prompts = [ids, ids, ids[:-5], ids]
    trials = [PasskeyTrial(key=key, depth=key / 4, num_answer_tokens=5, ids=prompts[key]) for key in range(4)]
    with loaded.using(scheme_factors("yarn", loaded.geometry, 512)):
        found = dict(answers(loaded.model, tiny_tokenizer, trials))
        expected = [tiny_tokenizer.decode(greedy(loaded.model, prompt, 5)) for prompt in prompts]

    assert all(expected[trial.key].startswith(text) and text for trial, text in found.items())
    assert found[trials[0]] == found[trials[1]] == found[trials[3]]


def test_what_long_prompts_begin_with_is_read_once(
    tiny_model_folder: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passkey, "TOKENS_PER_BATCH", 1)
    loaded = load_model(tiny_model_folder)
    trials = make_trials(Encoder(tiny_tokenizer), 450, 5, 0)
    num_read: list[int] = []
    read = lm_head.Reader.read

    def counting(reader: lm_head.Reader, ids: torch.Tensor, *, keep: bool) -> torch.Tensor:
        num_read.append(ids.shape[1])
        return read(reader, ids, keep=keep)

    monkeypatch.setattr(lm_head.Reader, "read", counting)
    with loaded.using(scheme_factors("yarn", loaded.geometry, 512)):
        together = dict(answers(loaded.model, loaded.tokenizer, reversed(trials)))
        prompts = [num for num in num_read if num > 1]
        alone = {
            trial: text for one in trials for trial, text in answers(loaded.model, loaded.tokenizer, [one])
        }

    assert together == alone
    assert prompts[0] == len(trials[0].ids)
    assert all(before > after for before, after in pairwise(prompts))


def test_what_was_answered_is_not_asked_again(tiny_model_folder: Path) -> None:
    loaded = load_model(tiny_model_folder)
    told: list[Any] = []
    (whole,) = measure_passkey(
        loaded, [300], factors={"x": lambda _: None}, num_trials=5, on_answer=told.append
    )
    early = [replace(told[0].answer, text=f" {told[0].answer.key}."), told[3].answer]
    again: list[Any] = []
    (rest,) = measure_passkey(
        loaded, [300], factors={"x": lambda _: None}, num_trials=5, answered=early, on_answer=again.append
    )

    assert [progress.num_answered for progress in told] == [1, 2, 3, 4, 5]
    assert [progress.num_answered for progress in again] == [3, 4, 5]
    assert told[-1].seconds_left == 0
    assert whole.found == told[-1].num_found
    assert rest.found == whole.found + 1
    other = measure_passkey(loaded, [300], factors={"y": lambda _: None}, num_trials=5, answered=early)
    assert other[0].found == whole.found


def test_decoding_stops_once_every_integer_is_complete(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: Any
) -> None:
    spoken = {0: " 12345. more", 1: " 9 and more"}
    steps: list[int] = []

    class Spoken:
        """Decodes whatever came as the next characters of a fixed answer."""

        def batch_decode(self, ids: list[list[int]]) -> list[str]:
            steps.append(len(ids[0]))
            return [spoken[row][: len(answer)] for row, answer in enumerate(ids)]

    trials = [PasskeyTrial(key=i, depth=0, num_answer_tokens=50, ids=(5, 6, 7)) for i in range(2)]
    found = dict(answers(tiny_model, Spoken(), trials))

    assert list(found.values()) == [" 12345.", " 9 and "]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_a_record_counts_what_was_found(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(tiny_model_folder)
    monkeypatch.setattr(
        passkey,
        "answers",
        lambda _model, _tokenizer, trials: [(t, f" {t.key}." if t.depth < 0.5 else " 1") for t in trials],
    )
    asked: list[int] = []
    seen: list[Any] = []
    (record,) = measure_passkey(
        loaded, [300], factors={"x": asked.append}, num_trials=5, seed=4, on_record=seen.append
    )

    assert asked == [300]
    assert seen == [record]
    assert (record.metric, record.value, record.found, record.n, record.length) == ("passkey", 0.4, 2, 5, 300)
    assert (record.factors, record.seed) == ("x", 4)
    assert record.low == pytest.approx(0.1176, abs=1e-4)
    assert record.high == pytest.approx(0.7693, abs=1e-4)
    assert [(b["depth"], b["n"], b["found"]) for b in record.as_json()["by_depth"]] == [
        (0.0, 1, 1), (0.25, 1, 1), (0.5, 1, 0), (0.75, 1, 0), (1.0, 1, 0),
    ]  # fmt: skip


def test_nothing_to_measure_is_refused(tiny_model_folder: Path) -> None:
    loaded = load_model(tiny_model_folder)
    for lengths, num_trials in (([], 5), ([300], 0)):
        with pytest.raises(SettingError, match="trials"):
            measure_passkey(loaded, lengths, factors={"u": lambda _: None}, num_trials=num_trials)


def test_the_bundled_model_finds_keys_inside_its_window() -> None:
    loaded = load_model(SCALE_MODEL)
    pi = scheme_factors("pi", loaded.geometry, 2048)
    inside, beyond = measure_passkey(loaded, [256, 512], factors={"untouched": lambda _: None}, num_trials=20)
    (interpolated,) = measure_passkey(loaded, [256], factors={"pi": lambda _: pi}, num_trials=20)

    assert inside.value >= 0.9
    assert beyond.value <= 0.5
    assert interpolated.value <= inside.value
