import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import DataError
from ropewalk.finetune.data import sources as sources_module
from ropewalk.finetune.data.mixture import Mixture, MixtureSettings
from ropewalk.finetune.data.sources import SourceReader, SourceSettings
from ropewalk.text.stdlib import module_splits
from ropewalk.text.tokens import Encoder


def read(tokenizer: Any, text: object, room: int = 100_000, **settings: Any) -> list[tuple[str, str]]:
    """(name, text) of every piece of one round."""
    reader = SourceReader(
        SourceSettings(name="mine", text=str(text), **settings), Encoder(tokenizer), room, seed="0"
    )
    pieces = []
    while True:
        piece = next(reader)
        if reader.place.round:
            return pieces
        pieces.append((piece.name, tokenizer.decode(piece.ids)))


def refused(tokenizer: Any, text: object, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(tokenizer, text, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_rows(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# ---------------------------------------------------------------- joining


@pytest.fixture
def shelves(tmp_path: Path) -> Path:
    """Files in two folders, one of them with a folder in it, and a file before and one behind them."""
    for name in ("a.txt", "poems/one.txt", "poems/old/two.txt", "prose/three.md", "z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(Path(name).stem)
    return tmp_path


def test_a_folder_is_joined_with_all_below_it(tiny_tokenizer: Any, shelves: Path) -> None:
    expected = ["a\n\nz", "three", "two\n\none"]

    assert sorted(text for _, text in read(tiny_tokenizer, shelves, join="folder")) == expected
    pattern = shelves / "**" / "*.*"
    assert sorted(text for _, text in read(tiny_tokenizer, pattern, join="folder")) == expected
    assert len(read(tiny_tokenizer, shelves)) == 5


def test_the_name_says_what_was_joined(tiny_tokenizer: Any, shelves: Path) -> None:
    names = sorted(name for name, _ in read(tiny_tokenizer, shelves, join="folder"))

    assert names[0] == f"{shelves}/a.txt ... {shelves}/z.txt"
    assert names[1] == f"{shelves}/poems/old/two.txt ... {shelves}/poems/one.txt"


def test_rows_of_one_topic_are_joined_in_their_order(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"text": f"{topic}{n}", "topic": topic} for n in range(3) for topic in ("rope", "knot")]
    file = write_rows(tmp_path / "rows.jsonl", *rows)
    joined = read(tiny_tokenizer, file, join="topic")

    assert sorted(text for _, text in joined) == ["knot0\n\nknot1\n\nknot2", "rope0\n\nrope1\n\nrope2"]


def test_what_can_not_be_joined_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", {"text": "a", "topic": "x"}, {"text": "b"})

    assert "line 2 has no topic" in refused(tiny_tokenizer, file, join="topic")
    assert "line 1 has no folder" in refused(tiny_tokenizer, file, join="folder")


def test_the_library_is_joined_by_package(tiny_tokenizer: Any) -> None:
    reader = SourceReader(
        SourceSettings(name="lib", text="stdlib", join="folder"), Encoder(tiny_tokenizer), 50_000, seed="0"
    )
    names = {next(reader).name for _ in range(30)}
    folders = [{Path(end).parts[1] for end in name.split(" ... ")} for name in names]

    assert len(names) > 3
    for tops in folders:
        assert len(tops) == 1 or all(top.endswith(".py") for top in tops), tops


@pytest.mark.parametrize("join", ["none", "folder"])
def test_no_module_that_is_measured_on_is_read(tiny_tokenizer: Any, join: Any) -> None:
    settings = SourceSettings(name="lib", text="stdlib", join=join)
    reader = SourceReader(settings, Encoder(tiny_tokenizer), 100, seed="0")
    modules = {
        Path(document.name).parts[1].removesuffix(".py")
        for block in [sources_module.join_documents(reader._read(), settings.join)]
        for group in block
        for document in group
    }

    assert len(modules) > 50
    assert modules <= set(module_splits()["train"])


def test_the_library_fills_the_longest_segments(scale_tokenizer: Any) -> None:
    settings = SourceSettings(name="lib", text="stdlib", join="folder")
    mixture = Mixture(MixtureSettings(sources=(settings,)), scale_tokenizer, 131_072)
    documents = []
    while sum(len(document.ids) == 131_070 for document in documents) < 2:
        documents.append(next(mixture))
    assert mixture.progress()["lib"]["rounds"] == 0


# ---------------------------------------------------------------- lengths, memory


def test_the_bucket_holds_both_its_ends(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *({"text": "x" * n} for n in range(1, 9)))

    def lengths(**bucket: int) -> list[int]:
        return sorted(len(text) for _, text in read(tiny_tokenizer, file, **bucket))

    assert lengths(min_tokens=3, max_tokens=5) == [3, 4, 5]
    assert lengths(min_tokens=7) == [7, 8]
    assert lengths(max_tokens=2) == [1, 2]


def test_a_length_is_that_of_the_whole_document_not_of_a_piece(tiny_tokenizer: Any, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", {"text": "ab" * 5}, {"text": "cd"})

    assert sorted(text for _, text in read(tiny_tokenizer, file, room=4, min_tokens=3)) == [
        "ab", "abab", "abab",
    ]  # fmt: skip


def test_no_more_than_a_block_is_read_ahead(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {n}"}) for n in range(sources_module.GROUPS_IN_BLOCK)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join([*rows, "not JSON"]))
    reader = SourceReader(SourceSettings(name="a", text=str(file)), Encoder(tiny_tokenizer), 50, seed="0")

    texts = {tiny_tokenizer.decode(next(reader).ids) for _ in range(len(rows))}
    assert len(texts) == len(rows)
    with pytest.raises(DataError, match="JSON"):
        next(reader)


def test_a_text_is_read_in_stretches(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropewalk.text.formats.BLOCK_CHARACTERS", 50)
    whole = "".join(f"line {n} of a long text\n" for n in range(30)) + "w" * 200 + " and an end"
    (tmp_path / "a.txt").write_text(whole)
    pieces = read(tiny_tokenizer, tmp_path / "a.txt", room=64)

    assert "".join(text for _, text in pieces) == whole
    assert {len(text) for _, text in pieces[:-1]} == {64}


# ---------------------------------------------------------------- chats

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
def chatting(tiny_tokenizer: Any) -> Any:
    """Set a template on a tokenizer of its own."""

    def with_template(template: str) -> Any:
        tokenizer = deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return with_template


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    messages = [
        {"role": "user", "content": "a rope?"},
        {"role": "assistant", "content": "strands."},
        {"role": "user", "content": "a knot?"},
        {"role": "assistant", "content": "a rope, again."},
    ]
    return write_rows(tmp_path / "chats.jsonl", {"messages": messages}, {"messages": messages[:1]})


def counted(tokenizer: Any, file: Path, room: int = 1000) -> list[tuple[str, str]]:
    """(text, what of it counts) of each piece."""
    settings = SourceSettings(name="chat", text=str(file), kind="chat")
    reader = SourceReader(settings, Encoder(tokenizer), room, seed="0")
    found = []
    while True:
        piece = next(reader)
        if reader.place.round:
            return found
        assert piece.weights is not None
        assert set(piece.weights) <= {0.0, 1.0}
        kept = [token for token, weight in zip(piece.ids, piece.weights, strict=True) if weight]
        found.append((tokenizer.decode(piece.ids), tokenizer.decode(kept)))


def test_answers_count_and_nothing_else(chatting: Any, chats: Path) -> None:
    ((text, answers),) = counted(chatting(CHATML), chats)

    assert text.startswith("<|user|>\na rope?<end>\n<|assistant|>\nstrands.<end>\n<|user|>")
    assert answers == "strands.<end>\na rope, again.<end>\n"


def test_a_template_s_own_marks_hold_and_its_bos_is_left_to_who_packs(chatting: Any, chats: Path) -> None:
    ((text, answers),) = counted(chatting(MARKED), chats)

    assert text.startswith("user: a rope?;assistant: strands.;")
    assert answers == "strands.;a rope, again.;"


def test_a_piece_without_an_answer_is_left_out(chatting: Any, chats: Path) -> None:
    pieces = counted(chatting(CHATML), chats, room=20)

    assert len(pieces) > 1
    assert all(answers for _, answers in pieces)
    assert "".join(answers for _, answers in pieces) == "strands.<end>\na rope, again.<end>\n"


def test_chats_that_can_not_be_read_are_refused(chatting: Any, chats: Path, tmp_path: Path) -> None:
    def said(template: str, file: Path = chats) -> str:
        return refused(chatting(template), file, kind="chat")

    assert "{% generation %}" in said(FORGETFUL)
    assert "does not fit this tokenizer's chat template: roles must alternate." in said(STRICT)
    only_questions = write_rows(tmp_path / "q.jsonl", {"messages": [{"role": "user", "content": "hm?"}]})
    assert "no answer to learn from" in said(CHATML, only_questions)
    for messages in ([], "hello", [{"role": "user"}], [{"role": "user", "content": None}], None):
        wrong = write_rows(tmp_path / "wrong.jsonl", {"messages": messages})
        assert "`messages`" in said(CHATML, wrong)
    assert "`messages`" in said(CHATML, write_rows(tmp_path / "t.jsonl", {"text": "a"}))


def test_a_text_is_no_chat(chatting: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")

    for text in (tmp_path / "a.txt", "stdlib"):
        assert "chats" in refused(chatting(CHATML), text, kind="chat")
    assert "chat" in refused(chatting(CHATML), tmp_path, kind="chat")


def test_a_tokenizer_without_a_template_reads_no_chats(tiny_tokenizer: Any, chats: Path) -> None:
    settings = MixtureSettings(sources=(SourceSettings(name="talk", text=str(chats), kind="chat"),))

    with pytest.raises(ValueError, match=r"talk is a chat, but .* has no chat template") as caught:
        Mixture(settings, tiny_tokenizer, 100)
    assert "\n" not in str(caught.value)


def test_chats_mix_with_text(chatting: Any, chats: Path, tmp_path: Path) -> None:
    tokenizer = chatting(CHATML)
    (tmp_path / "long.txt").write_text("strand by strand " * 100)
    mixture = Mixture(
        MixtureSettings(
            sources=(
                SourceSettings(name="talk", text=str(chats), kind="chat"),
                SourceSettings(name="books", text=str(tmp_path / "long.txt")),
            ),
            retrieval_share=0.2,
        ),
        tokenizer,
        400,
    )
    documents = [next(mixture) for _ in range(60)]

    assert {document.source.partition(":")[0] for document in documents} == {"talk", "books", "retrieval"}
    assert not any("tokens of talk" in document.source for document in documents)


def test_first_documents_are_skipped(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"text": f"row {number}"} for number in range(4)]
    file = write_rows(tmp_path / "rows.jsonl", *rows)
    assert {text.strip() for _, text in read(tiny_tokenizer, file, skip=3)} == {"row 3"}
    assert "after its first 9" in refused(tiny_tokenizer, file, skip=9)
    settings = SourceSettings(name="a", text="b")
    assert "skip" not in settings.model_dump(), (
        "as trainings that began before there was a skip have noted it"
    )
    assert SourceSettings(name="a", text="b", skip=2).model_dump()["skip"] == 2
