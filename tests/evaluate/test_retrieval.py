"""Retrieval with a reader that copies values from the text it can see, and with a random model."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.errors import DataError, SettingError
from ropewalk.evaluate.answers import RetrievalAnswer, begins_with
from ropewalk.evaluate.records import EvalRecord
from ropewalk.evaluate.retrieval import measure_retrieval
from ropewalk.evaluate.retrieval_texts import CHAT_QUESTION, Framing, draw_hidden_facts, prompts
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.models.model import Model, load_model
from ropewalk.report.comparison import constant, share_differences_to, without_factors
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import DocumentSet, Encoder, token_documents
from ropewalk.text.wordings import HELD_OUT_WORDINGS, WORDINGS, Wording

BASE = {"base": without_factors}
LENGTH = 512
TEMPLATE = (
    "{% for m in messages %}<user>{{ m['content'] | trim }}</user>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


@pytest.fixture
def loaded(tiny_model_folder: Path) -> Model:
    return load_model(tiny_model_folder)


@pytest.fixture
def documents(loaded: Model, tmp_path: Path) -> DocumentSet:
    for number in range(5):
        text = " ".join(f"line {line} of book {number}, of no use" for line in range(60))
        (tmp_path / f"{number}.txt").write_text(text)
    return token_documents(str(tmp_path / "*.txt"), loaded.tokenizer, length=1024)


class CopyingReader:
    """Like `Reader`, but answers a question with the fact that the last `sight` characters state."""

    sight = 10**6
    num_read = 0
    tokenizer: Any

    def __init__(self, model: Any) -> None:
        self.ids = torch.empty(0, 0, dtype=torch.int64)

    def read(self, ids: torch.Tensor, *, keep: bool) -> torch.Tensor:
        num_known = self.ids.shape[1]
        self.ids = torch.cat([self.ids, ids], dim=1) if num_known else ids
        type(self).num_read += ids.numel()
        places = torch.arange(num_known, self.ids.shape[1])
        rows = torch.arange(len(ids))
        return torch.stack(torch.meshgrid(rows, places, indexing="ij"), dim=-1)

    def go_back_to(self, num_tokens: int) -> int:
        self.ids = self.ids[:, :num_tokens]
        return num_tokens

    def pieces(self, ids: torch.Tensor, read_chunk: int | None, *, keep: bool = False) -> Any:
        yield 0, self.read(ids, keep=keep)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        chosen = [self.next_token(self.ids[row, : place + 1]) for row, place in hidden.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(chosen), len(self.tokenizer)).float()

    def next_token(self, ids: torch.Tensor) -> int:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        text = text.replace("?</user><model>", "? ")  # in a chat, the model's turn begins there
        return int(self.tokenizer(next_character(text, self.sight), add_special_tokens=False).input_ids[0])


def next_character(text: str, sight: int) -> str:
    asked = max(
        (
            (text.rfind(question) + len(question), wording, key, value)
            for wording in (*WORDINGS, *HELD_OUT_WORDINGS)
            for key, value in stated(text, wording)
            if (question := wording.question.format(key=key)) in text
        ),
        default=None,
        key=lambda entry: entry[0],
    )
    if asked is None:
        return "?"
    end, wording, key, value = asked
    seen = wording.statement.format(key=key, value=value) in text[-sight:]
    answer, given = (f" {value}{wording.end}" if seen else " nothing."), text[end:]
    return answer[len(given)] if answer.startswith(given) and len(given) < len(answer) else "?"


def stated(text: str, wording: Wording) -> list[tuple[str, str]]:
    parts = {"key": r"(?P<key>[\w ]+?)", "value": r"(?P<value>\w+)"}
    marked = wording.statement.format(key="\1", value="\2")
    pattern = re.escape(marked).replace("\1", parts["key"]).replace("\2", parts["value"])
    return [(found["key"], found["value"]) for found in re.finditer(f"^{pattern}$", text, re.MULTILINE)]


@pytest.fixture
def copying(loaded: Model, monkeypatch: pytest.MonkeyPatch) -> type[CopyingReader]:
    class Reader(CopyingReader):
        tokenizer = loaded.tokenizer

    monkeypatch.setattr("ropewalk.evaluate.greedy.Reader", Reader)
    monkeypatch.setattr("ropewalk.evaluate.teacher_forcing.Reader", Reader)
    return Reader


def measured(
    loaded: Model, documents: DocumentSet, *, lengths: tuple[int, ...] = (LENGTH,), **settings: Any
) -> list[EvalRecord]:
    options = RetrievalSettings(**settings)
    return measure_retrieval(loaded, documents, lengths, factors=BASE, settings=options)


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize("one_question", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"num_questions": 5},
        {"num_questions": 7, "num_facts": 3, "num_distractors": 2},
        {"num_questions": 4, "num_facts": 2, "wordings": "held-out", "keys": "name", "values": "hexadecimal"},
    ],
)
def test_a_model_that_copies_finds_everything(
    loaded: Model, documents: DocumentSet, copying: Any, one_question: bool, settings: dict[str, Any]
) -> None:
    lengths = (LENGTH, 1024)
    records = measured(loaded, documents, lengths=lengths, one_question_per_reading=one_question, **settings)
    assert [record.length for record in records] == list(lengths)
    for record in records:
        assert (record.metric, record.n, record.value) == ("retrieval", settings["num_questions"], 1.0)
        assert (record.found, record.high) == (record.n, 1.0)
        assert sum(entry["n"] for entry in record.by_depth or ()) == record.n
        assert record.data_sha256 == documents.data_sha256
        assert record.retrieval is not None
        assert record.retrieval.num_facts == settings.get("num_facts", 1)


@pytest.mark.parametrize("one_question", [False, True])
def test_a_model_that_sees_the_end_finds_the_facts_there(
    loaded: Model, documents: DocumentSet, copying: Any, one_question: bool
) -> None:
    copying.sight = 500
    (record,) = measured(
        loaded, documents, lengths=(1024,), num_questions=20, one_question_per_reading=one_question
    )
    found = {entry["depth"]: entry["found"] / entry["n"] for entry in record.by_depth or ()}
    assert len(found) == 10
    assert all(share == (0 if depth < 0.4 else 1) for depth, share in found.items() if abs(depth - 0.5) > 0.1)
    assert 0 < record.value < 1


def test_facts_and_questions_of_a_text_cost_one_reading(
    loaded: Model, documents: DocumentSet, copying: Any
) -> None:
    measured(loaded, documents, num_questions=8, num_facts=4)
    assert copying.num_read == 2 * LENGTH
    copying.num_read = 0
    measured(loaded, documents, num_questions=8, num_facts=4, one_question_per_reading=True)
    assert 2 * LENGTH < copying.num_read < 4 * LENGTH  # the text is read once, each question by itself


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" 52170.", True),
        (" 52170\n", True),
        ("52170</s>", True),
        (" 521704.", False),
        (" 52170", False),
        (" 5217.", False),
        (" 52170_a", False),
        (" the 52170.", False),
        ("", False),
    ],
)
def test_an_answer_is_the_whole_value_and_something_else(text: str, found: bool) -> None:
    assert begins_with(text, "52170") == found


@pytest.mark.parametrize("chunk", [100, 10_000])
def test_both_modes_judge_the_same_tokens(
    loaded: Model, documents: DocumentSet, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """With one fact per text, the texts of both modes are the same, and so are the tokens to a mistake."""
    monkeypatch.setattr("ropewalk.evaluate.teacher_forcing.READ_CHUNK", chunk)
    monkeypatch.setattr("ropewalk.evaluate.retrieval.TOKENS_PER_BATCH", 2 * LENGTH)
    factors = {"yarn": constant(scheme_factors("yarn", loaded.geometry, LENGTH))}
    texts: dict[bool, list[str]] = {}
    for alone in (False, True):
        given: list[Any] = []
        measure_retrieval(
            loaded, documents, [LENGTH], factors=factors,
            settings=RetrievalSettings(num_questions=5, one_question_per_reading=alone),
            on_answer=lambda progress, given=given: given.append(progress),
        )  # fmt: skip
        texts[alone] = [progress.answer.text for progress in given]
        assert [progress.num_answered for progress in given] == [1, 2, 3, 4, 5]
        assert given[-1].num_trials == 5
    assert all(texts[False])
    for forced, decoded in zip(texts[False], texts[True], strict=True):
        assert decoded.startswith(forced)


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("chat", [False, True])
def test_prompt_and_answer_have_exactly_the_length(loaded: Model, documents: DocumentSet, chat: bool) -> None:
    loaded.tokenizer.chat_template = TEMPLATE
    encode = Encoder(loaded.tokenizer)
    settings = RetrievalSettings(num_questions=6, num_facts=3, num_distractors=1, chat=chat)
    for hidden in draw_hidden_facts(settings, LENGTH):
        document = documents.documents[0].ids.tolist()
        made = prompts(document, LENGTH, hidden, Framing(encode, chat=chat), encode)
        for place, prompt in zip(hidden.asked, made, strict=True):
            fact = hidden.facts[place]
            assert len(prompt.ids) + len(encode(fact.answer)) == LENGTH
            text = loaded.tokenizer.decode(prompt.ids, skip_special_tokens=True)
            assert all(other.statement in text for other in hidden.facts)
            question, _, begun = fact.question.strip().rpartition("? ")
            asked = f"{question}?" if question else CHAT_QUESTION.format(key=fact.key)
            assert text.endswith(f"{asked}</user><model>{begun}" if chat else fact.question)
            assert text.startswith("<user>line 0" if chat and hidden.depths[0] > 0 else "<user>" * chat)


def test_a_chat_is_asked_through_its_template(loaded: Model, documents: DocumentSet, copying: Any) -> None:
    loaded.tokenizer.chat_template = TEMPLATE
    (record,) = measured(loaded, documents, num_questions=4, num_facts=2, chat=True)
    assert record.value == 1.0


def test_facts_follow_from_seed_and_length_and_distractors_are_not_asked_for() -> None:
    settings = RetrievalSettings(num_questions=10, num_facts=4, num_distractors=3)
    texts = list(draw_hidden_facts(settings, LENGTH))
    assert texts == list(draw_hidden_facts(settings, LENGTH))
    assert texts != list(draw_hidden_facts(settings, LENGTH + 1))
    assert texts != list(draw_hidden_facts(settings.model_copy(update={"seed": 1}), LENGTH))
    assert [len(text.asked) for text in texts] == [4, 4, 2]
    for text in texts:
        assert len(text.facts) == 7
        assert list(text.depths) == sorted(text.depths)
        assert {fact.wording for fact in text.facts} <= set(WORDINGS)
    asked = Counter(text.depths[place] for text in texts for place in text.asked)
    assert set(asked.values()) == {1}  # ten questions at ten depths


def test_held_out_wordings_are_none_of_the_known() -> None:
    for text in draw_hidden_facts(RetrievalSettings(wordings="held-out", num_facts=5), LENGTH):
        assert {fact.wording for fact in text.facts} <= set(HELD_OUT_WORDINGS)


# ---------------------------------------------------------------- records, comparisons, resuming


def test_two_sets_of_factors_are_compared_question_by_question(
    loaded: Model, documents: DocumentSet, copying: Any
) -> None:
    settings = RetrievalSettings(num_questions=12, num_facts=2)

    def far(length: int) -> None:
        copying.sight = 10**6

    def near(length: int) -> None:
        copying.sight = 500

    records = measure_retrieval(
        loaded, documents, [1024], factors={"near": near, "far": far}, settings=settings
    )
    near_record, far_record = (EvalRecord.from_json(json.loads(json.dumps(r.as_json()))) for r in records)
    assert [near_record, far_record] == records
    ((other, difference),) = share_differences_to(records, "far")
    assert other is records[0]
    assert difference.share == pytest.approx(far_record.value - near_record.value)
    assert difference.only_ours == 12 - (near_record.found or 0)
    assert difference.low is not None
    assert difference.low < difference.share
    more = measured(loaded, documents, lengths=(1024,), num_questions=12, num_facts=3)
    assert records[1].share_difference(more[0]) is None  # other questions


def test_answers_of_an_interrupted_measurement_are_not_asked_again(
    loaded: Model, documents: DocumentSet, copying: Any
) -> None:
    settings = RetrievalSettings(num_questions=6, num_facts=2)
    given: list[RetrievalAnswer] = []
    whole = measure_retrieval(
        loaded, documents, [LENGTH], factors=BASE, settings=settings,
        on_answer=lambda progress: given.append(progress.answer),
    )  # fmt: skip
    kept = [RetrievalAnswer.from_json(json.loads(json.dumps(answer.as_json()))) for answer in given[:3]]
    copying.num_read = 0
    again = measure_retrieval(loaded, documents, [LENGTH], factors=BASE, settings=settings, answered=kept)
    assert copying.num_read == 2 * LENGTH  # the second text lacks an answer
    assert again[0].by_question == whole[0].by_question
    other = RetrievalSettings(num_questions=6, num_facts=2, seed=1)
    measure_retrieval(loaded, documents, [LENGTH], factors=BASE, settings=other, answered=given)
    assert copying.num_read == 5 * LENGTH


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize("one_question", [False, True])
def test_facts_that_do_not_fit_are_refused_before_anything_is_read(
    loaded: Model, documents: DocumentSet, copying: Any, one_question: bool
) -> None:
    with pytest.raises(SettingError, match="facts"):
        measured(loaded, documents, lengths=(1024, 300), num_facts=12, one_question_per_reading=one_question)
    assert copying.num_read == 0


@pytest.mark.parametrize("lengths", [(), (1025,), (1,)])
def test_documents_must_have_the_lengths(
    loaded: Model, documents: DocumentSet, lengths: tuple[int, ...]
) -> None:
    with pytest.raises(SettingError, match="length"):
        measured(loaded, documents, lengths=lengths)


@pytest.mark.parametrize(
    ("settings", "noun"),
    [
        ({"num_facts": 0}, "num_facts"),
        ({"num_questions": 0}, "num_questions"),
        ({"wordings": "new"}, "wordings"),
        ({"num_facts": 40, "num_distractors": 40}, "facts"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], noun: str) -> None:
    with pytest.raises(SettingError, match=noun):
        RetrievalSettings(**settings)


@pytest.mark.parametrize("template", [None, "{{ unknown() }}", "nothing of the message"])
def test_a_chat_needs_a_template_that_writes_the_message(
    loaded: Model, documents: DocumentSet, template: str | None
) -> None:
    loaded.tokenizer.chat_template = template
    with pytest.raises(DataError, match="template"):
        measured(loaded, documents, chat=True)
