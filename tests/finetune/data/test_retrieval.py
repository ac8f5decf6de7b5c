import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.evaluate.passkey import make_trials
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.retrieval import RetrievalMaker
from ropewalk.finetune.data.sources import SourceReader, SourceSettings
from ropewalk.text.passkey_prompt import TASK, is_training_key
from ropewalk.text.tokens import Encoder

SHORTEST = 252  # tokens of a passkey text, for a tokenizer with a token a byte
NUMBER = re.compile(r"\nThe number of (\w+) is (\d{5})\.")


def told_and_asked(text: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(name, number) of the facts, and of the answers, in their orders."""
    numbers = NUMBER.findall(text)
    return numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]


@pytest.fixture(scope="module")
def encode(tiny_tokenizer: Any) -> Encoder:
    return Encoder(tiny_tokenizer)


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("novel") / "novel.txt"
    file.write_text("the rope was made strand by strand, " * 200)
    return str(file)


def maker(encode: Encoder, room: int, text: str | None = None, seed: int = 0) -> RetrievalMaker:
    readers = [] if text is None else [SourceReader(SourceSettings(name="n", text=text), encode, room, "n")]
    return RetrievalMaker(encode, room, seed=seed, answer_weight=8.0, filler_weight=0.05, readers=readers)


def weighed(document: TrainingDocument, weight: float, tokenizer: Any) -> str:
    assert document.counts is not None
    return str(tokenizer.decode(document.ids[(document.counts - weight).abs() < 1e-6]))


def answer_weight(document: TrainingDocument) -> float:
    return 8.0 * max(1.0, len(document.ids) / 256)


def test_a_passkey_text_is_what_evaluation_reads_with_its_answer(
    encode: Encoder, tiny_tokenizer: Any
) -> None:
    makes = maker(encode, 400)
    for _ in range(20):
        text = tiny_tokenizer.decode(next(makes).ids)
        (trial,) = make_trials(encode, len(text) + 1, 1, seed=0)
        asked = tiny_tokenizer.decode(trial.ids).removeprefix("<s>")
        key = re.findall(r"\d+", text)[-1]

        assert text.endswith(f"What is the pass key? The pass key is {key}.")
        assert len(text) == len(asked) + trial.num_answer_tokens
        # The same words at the same length: only the key and its place differ.
        needle = "\nThe pass key is {0}. Remember it. {0} is the pass key."
        assert (
            asked.replace(needle.format(trial.key), "")
            == text.replace(needle.format(key), "")[: -len(" 12345.")]
        )


def test_digits_of_answers_weigh_much_and_first_mentions_nothing(
    encode: Encoder, tiny_tokenizer: Any, novel: str
) -> None:
    makes = maker(encode, 700, novel)
    for _ in range(20):
        document = next(makes)
        text = tiny_tokenizer.decode(document.ids)
        answers, unknown = (
            weighed(document, weight, tiny_tokenizer) for weight in (answer_weight(document), 0.0)
        )
        if "pass key" in text:
            key = text[-6:-1]
            assert (unknown, answers) == (key, key * 2)
        else:
            told, asked = told_and_asked(text)
            assert unknown == "".join(number for _, number in told)
            assert answers == "".join(number for _, number in asked)
        rest = len(text) - len(answers) - len(unknown)
        assert len(weighed(document, 0.05, tiny_tokenizer)) == rest


def test_an_answer_is_the_same_share_of_a_text_s_tokens_at_every_length(encode: Encoder) -> None:
    shares = []
    for room in (300, 3000):
        document = next(maker(encode, room))
        assert document.counts is not None
        shares.append(float(document.counts[document.counts > 1].sum()) / len(document.ids))

    assert shares[0] == pytest.approx(80 / 256, rel=1e-4)
    assert shares[1] == pytest.approx(shares[0], rel=1e-4)


def test_every_needle_is_asked_for_and_text_is_around_them(
    encode: Encoder, tiny_tokenizer: Any, novel: str
) -> None:
    makes = maker(encode, 1000, novel)
    texts = [tiny_tokenizer.decode(next(makes).ids) for _ in range(60)][1::2]
    pairs = [told_and_asked(text) for text in texts]
    numbers_of_needles = {len(told) for told, _ in pairs if told}

    for text, (told, asked) in zip(texts, pairs, strict=True):
        assert sorted(asked) == sorted(told)
        assert len({name for name, _ in told}) == len(told)
        assert set(NUMBER.sub("", text)) <= set("the rope was made strand by strand, \n")
        assert len(NUMBER.sub("", text)) >= len(text) / 2
    assert numbers_of_needles >= {2, 3, 4, 5}
    assert any(told != asked for told, asked in pairs)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_key_of_training_is_one_that_evaluation_draws(
    encode: Encoder, tiny_tokenizer: Any, novel: str, seed: int
) -> None:
    makes = maker(encode, 600, novel, seed=seed)
    trained = {
        int(number)
        for _ in range(8)
        for number in re.findall(r"\d{5}", tiny_tokenizer.decode(next(makes).ids))
    }
    evaluated = {trial.key for trial in make_trials(encode, 600, 100, seed)}

    assert trained
    assert all(map(is_training_key, trained))
    assert not trained & evaluated


def test_lengths_and_depths_are_spread(encode: Encoder, tiny_tokenizer: Any) -> None:
    makes = maker(encode, 2000)
    texts = [tiny_tokenizer.decode(next(makes).ids) for _ in range(80)]
    lengths = [len(text) for text in texts]
    depths = [
        (text.index("\nThe pass key is") - len(TASK)) / (len(text) - SHORTEST)
        for text in texts
        if len(text) == 2000
    ]

    assert min(lengths) >= SHORTEST
    assert lengths.count(2000) in range(40, 44)
    assert sum(length < 700 for length in lengths) in range(10, 30)
    for tenth in range(10):
        assert any(tenth / 10 <= depth <= (tenth + 1) / 10 for depth in depths)


def test_texts_are_whole_and_named(encode: Encoder, novel: str) -> None:
    makes = maker(encode, 500, novel)
    first, second = next(makes), next(makes)

    assert first.whole
    assert second.whole
    assert first.source == "retrieval: passkey at depth 0.00 of 500 tokens"
    assert re.fullmatch(r"retrieval: \d needles in 500 tokens of n", second.source)
