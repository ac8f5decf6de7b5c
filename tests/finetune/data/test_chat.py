"""Chats: which tokens are answers, for templates that mark them and templates that do not."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from training_rows import write_rows

from ropewalk.errors import DataError, SettingError
from ropewalk.finetune.data.joining import read_groups
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.settings import SourceSettings
from ropewalk.finetune.data.sources import Source, check_source
from ropewalk.text.tokens import Encoder

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MARKED = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }};{% endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %}|{% endfor %}"
)
STRICT = "{{ raise_exception('roles must alternate') }}"


@pytest.fixture
def with_template(tiny_tokenizer: Any) -> Any:
    """A copy of the tokenizer with a chat template."""

    def copy(template: str) -> Any:
        tokenizer = deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return copy


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    messages = [
        {"role": "user", "content": "a rope?"},
        {"role": "assistant", "content": "strands."},
        {"role": "user", "content": "a knot?"},
        {"role": "assistant", "content": "a rope, again."},
    ]
    return write_rows(tmp_path / "chats.jsonl", {"messages": messages}, {"messages": messages[:1]})


def chat_source(tokenizer: Any, file: object) -> Source:
    return Source(SourceSettings(name="talk", text=str(file), kind="chat"), Encoder(tokenizer))


def answers(tokenizer: Any, file: Path) -> list[tuple[str, str]]:
    """The text and the answers of each chat."""
    source, found = chat_source(tokenizer, file), []
    for document in map(source.document, read_groups(source.settings)):
        if document is not None:
            assert document.weights is not None
            assert set(document.weights.tolist()) <= {0.0, 1.0}
            kept = document.ids[document.weights > 0]
            found.append((tokenizer.decode(document.ids), tokenizer.decode(kept)))
    return found


def test_only_answers_count_and_chats_without_one_are_left_out(with_template: Any, chats: Path) -> None:
    ((text, answer),) = answers(with_template(CHATML), chats)

    assert text.startswith("<|user|>\na rope?<end>\n<|assistant|>\nstrands.<end>\n<|user|>")
    assert answer == "strands.<end>\na rope, again.<end>\n"


def test_marks_of_a_template_are_used_and_its_bos_is_removed(with_template: Any, chats: Path) -> None:
    ((text, answer),) = answers(with_template(MARKED), chats)

    assert text.startswith("user: a rope?;assistant: strands.;")
    assert answer == "strands.;a rope, again.;"


@pytest.mark.parametrize(("template", "noun"), [(FORGETFUL, "{% generation %}"), (STRICT, "alternate")])
def test_a_template_that_can_not_be_used_is_refused(
    with_template: Any, chats: Path, template: str, noun: str
) -> None:
    with pytest.raises(DataError, match=noun) as caught:
        answers(with_template(template), chats)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("messages", [[], "hello", [{"role": "user"}], [{"role": "user", "content": None}]])
def test_rows_that_are_no_chat_are_refused(with_template: Any, tmp_path: Path, messages: Any) -> None:
    file = write_rows(tmp_path / "wrong.jsonl", {"messages": messages})
    with pytest.raises(DataError, match="line 1"):
        answers(with_template(CHATML), file)


def test_a_source_without_chats_is_refused(with_template: Any, tmp_path: Path) -> None:
    tokenizer, packing = with_template(CHATML), Packing(bos=None, eos=None, length=8)
    (tmp_path / "a.txt").write_text("hello")
    question = write_rows(tmp_path / "q.jsonl", {"messages": [{"role": "user", "content": "hm?"}]})
    for text, noun in (
        (tmp_path / "a.txt", "chat"),
        ("stdlib", "chat"),
        (question, "answer"),
        (write_rows(tmp_path / "t.jsonl", {"text": "a"}), "messages"),
    ):
        with pytest.raises(DataError, match=noun):
            check_source(chat_source(tokenizer, text), packing)


def test_a_tokenizer_without_a_template_reads_no_chats(tiny_tokenizer: Any, chats: Path) -> None:
    with pytest.raises(SettingError, match="template"):
        chat_source(tiny_tokenizer, chats)
