"""Generated texts: what they say, what counts in the loss, and that no key of the evaluation is in them."""

import re
from itertools import count, islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.errors import SettingError
from ropewalk.evaluate.passkey import make_trials
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.retrieval import RetrievalTexts
from ropewalk.finetune.data.settings import MixtureSettings, SourceSettings
from ropewalk.text.passkey_prompt import TASK, is_training_key
from ropewalk.text.tokens import Encoder
from ropewalk.text.wordings import WORDINGS

SHORTEST = 252  # tokens of a passkey text, for a tokenizer with a token per byte
NOVEL = "^" * 4000  # no fact has this character


Pairs = list[tuple[str, str]]


def facts_and_answers(text: str) -> tuple[Pairs, Pairs]:
    """(key, value) of the facts, and of the answers after the last of the text around, in their orders."""
    statements, _, questions = text.rpartition("^")
    stated = [f"\n{wording.statement}\n" for wording in WORDINGS]
    answered = [f"\n{wording.question} {{value}}{wording.end}" for wording in WORDINGS]
    return find_pairs(stated, statements), find_pairs(answered, questions)


def find_pairs(sentences: list[str], text: str) -> Pairs:
    found = [match for sentence in sentences for match in pattern(sentence).finditer(text)]
    return [(match["key"], match["value"]) for match in sorted(found, key=lambda match: match.start())]


def pattern(sentence: str) -> re.Pattern[str]:
    plain = re.escape(sentence.replace("{{", "{").replace("}}", "}"))
    return re.compile(
        plain.replace(r"\{key\}", r"(?P<key>\w+ ?\w+)").replace(r"\{value\}", r"(?P<value>\w+)")
    )


@pytest.fixture(scope="module")
def encode(tiny_tokenizer: Any) -> Encoder:
    return Encoder(tiny_tokenizer)


def generate(encode: Encoder, num_tokens: int, novel: str | None = None, seed: int = 0) -> Any:
    """An iterator of documents."""
    sources = () if novel is None else (SourceSettings(name="n", text="n.txt"),)
    chosen = MixtureSettings(sources=sources, retrieval_share=1, seed=seed)
    around = [] if novel is None else [TrainingDocument(ids=torch.tensor(encode(novel)), source="n")]
    return RetrievalTexts(chosen, encode, num_tokens).make(count(), around)


def with_weight(document: TrainingDocument, weight: float, tokenizer: Any) -> str:
    """The tokens of that weight."""
    assert document.weights is not None
    return str(tokenizer.decode(document.ids[(document.weights - weight).abs() < 1e-6]))


def answer_weight(document: TrainingDocument) -> float:
    return 8.0 * max(1.0, len(document.ids) / 256)


def test_a_passkey_text_is_a_prompt_of_the_evaluation_with_its_answer(
    encode: Encoder, tiny_tokenizer: Any
) -> None:
    for document in islice(generate(encode, 400), 20):
        text = tiny_tokenizer.decode(document.ids)
        (trial,) = make_trials(encode, len(text) + 1, 1, seed=0)
        prompt = tiny_tokenizer.decode(trial.ids).removeprefix("<s>")
        key = re.findall(r"\d+", text)[-1]

        assert text.endswith(f"What is the pass key? The pass key is {key}.")
        assert len(text) == len(prompt) + trial.num_answer_tokens
        # The same words at the same length: only the key and its place differ.
        needle = "\nThe pass key is {0}. Remember it. {0} is the pass key."
        assert (
            prompt.replace(needle.format(trial.key), "")
            == text.replace(needle.format(key), "")[: -len(" 12345.")]
        )


def test_answers_weigh_much_and_first_mentions_nothing(encode: Encoder, tiny_tokenizer: Any) -> None:
    for document in islice(generate(encode, 700, NOVEL), 40):
        text = tiny_tokenizer.decode(document.ids)
        answers, unknown = (
            with_weight(document, weight, tiny_tokenizer) for weight in (answer_weight(document), 0.0)
        )
        if "pass key" in text:
            key = text[-6:-1]
            assert (unknown, answers) == (key, f"{key} {key}.")
        else:
            stated, answered = facts_and_answers(text)
            assert unknown == "".join(value for _, value in stated)
            assert re.findall(r"\w+", answers) == [value for _, value in answered]
        rest = len(text) - len(answers) - len(unknown)
        assert len(with_weight(document, 0.05, tiny_tokenizer)) == rest


def test_an_answer_is_the_same_share_of_the_tokens_at_every_length(encode: Encoder) -> None:
    shares = []
    for num_tokens in (300, 3000):
        document = next(generate(encode, num_tokens))
        shares.append(float(document.weights[document.weights > 1].sum()) / len(document.ids))

    assert shares[0] == pytest.approx(12 * 8 / 256, rel=1e-4)
    assert shares[1] == pytest.approx(shares[0], rel=1e-4)


def test_every_fact_is_asked_for_and_has_text_around_it(encode: Encoder, tiny_tokenizer: Any) -> None:
    texts = [tiny_tokenizer.decode(d.ids) for d in islice(generate(encode, 1400, NOVEL), 80)][1::2]
    pairs = [facts_and_answers(text) for text in texts]
    for text, (facts, answers) in zip(texts, pairs, strict=True):
        assert sorted(answers) == sorted(facts)
        assert len(dict(facts)) == len(facts)
        assert text.count("^") >= len(text) / 2
    assert {len(facts) for facts, _ in pairs} >= {2, 3, 4, 5}
    assert any(facts != answers for facts, answers in pairs)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_key_of_training_is_one_that_evaluation_draws(
    encode: Encoder, tiny_tokenizer: Any, seed: int
) -> None:
    trained = {
        int(number)
        for document in islice(generate(encode, 600, seed=seed), 8)
        for number in re.findall(r"\d{5}", tiny_tokenizer.decode(document.ids))
    }
    evaluated = {trial.key for trial in make_trials(encode, 600, 100, seed)}

    assert trained
    assert all(map(is_training_key, trained))
    assert not trained & evaluated


def test_lengths_and_depths_are_spread(encode: Encoder, tiny_tokenizer: Any) -> None:
    texts = [tiny_tokenizer.decode(document.ids) for document in islice(generate(encode, 2000), 80)]
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


def test_a_document_depends_on_its_number_and_the_seed(encode: Encoder) -> None:
    def first(seed: int) -> list[list[int]]:
        documents = islice(generate(encode, 300, NOVEL, seed=seed), 4)
        return [document.ids.tolist() for document in documents]

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_generated_texts_are_whole(encode: Encoder) -> None:
    for document in islice(generate(encode, 500, NOVEL), 2):
        assert (document.whole, document.source) == (True, "retrieval")


def test_a_segment_too_short_for_a_prompt_is_refused(encode: Encoder) -> None:
    documents = list(islice(generate(encode, SHORTEST, NOVEL), 60))
    assert all(len(document.ids) == SHORTEST for document in documents[::2])
    with pytest.raises(SettingError, match=f"{SHORTEST} tokens"):
        generate(encode, SHORTEST - 1)
