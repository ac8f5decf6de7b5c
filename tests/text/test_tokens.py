import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import DataError, SettingError
from ropewalk.text.documents import Document
from ropewalk.text.tokens import Encoder, token_documents, tokenizer_fingerprint


def write_lines(folder: Path, *texts: str) -> str:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def test_documents_have_the_given_length_with_bos(tmp_path: Path, tiny_tokenizer: Any) -> None:
    source = write_lines(tmp_path, "abcdefgh", "ab", "hgfedcba")
    found = token_documents(source, tiny_tokenizer, length=5)

    assert [tiny_tokenizer.decode(d.ids) for d in found.documents] == ["<s>abcd", "<s>hgfe"]
    assert found.length == 5
    assert (found.num_read, found.num_too_short) == (3, 1)
    assert found.source == source
    assert all(d.ids.dtype == torch.int64 for d in found.documents)


def test_a_document_of_exactly_the_length_is_long_enough(tmp_path: Path, tiny_tokenizer: Any) -> None:
    found = token_documents(write_lines(tmp_path, "abcd"), tiny_tokenizer, length=5)

    assert len(found.documents[0].ids) == 5
    with pytest.raises(DataError, match="5"):
        token_documents(found.source, tiny_tokenizer, length=6)


def test_no_more_documents_are_read_than_needed(tmp_path: Path, tiny_tokenizer: Any) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a"}\n{"text": "abcdefgh"}\n{"text": "abcdefgh"}\nnot JSON')
    found = token_documents(str(file), tiny_tokenizer, length=5, num_documents=2)

    assert (len(found.documents), found.num_read, found.num_too_short) == (2, 3, 1)


def test_a_tokenizer_without_bos_gives_text_only(tmp_path: Path, tiny_tokenizer: Any) -> None:
    class WithoutBos:
        bos_token_id = None
        backend_tokenizer = tiny_tokenizer.backend_tokenizer

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return tiny_tokenizer(*args, **kwargs)

    found = token_documents(write_lines(tmp_path, "abcdefgh"), WithoutBos(), length=4)

    assert tiny_tokenizer.decode(found.documents[0].ids) == "abcd"


@pytest.mark.parametrize(("length", "num_documents"), [(1, 1), (0, None), (4, 0)])
def test_nothing_to_read_is_refused(tiny_tokenizer: Any, length: int, num_documents: int | None) -> None:
    with pytest.raises(SettingError, match="document"):
        token_documents("stdlib", tiny_tokenizer, length=length, num_documents=num_documents)


@given(num_tokens=st.integers(1, 400), num_words=st.integers(0, 400))
def test_the_head_is_that_of_the_whole_text(tiny_tokenizer: Any, num_tokens: int, num_words: int) -> None:
    text = "".join(f"word{i} " for i in range(num_words))
    asked: list[int] = []

    def head(num_characters: int) -> str:
        asked.append(num_characters)
        return text[:num_characters]

    encode = Encoder(tiny_tokenizer)

    assert encode.head(Document(name="words", head=head), num_tokens) == encode(text)[:num_tokens]
    assert asked == sorted(asked)


@given(sizes=st.lists(st.integers(1, 40), max_size=8), lines=st.booleans())
def test_stretches_are_the_whole_text(tiny_tokenizer: Any, sizes: list[int], lines: bool) -> None:
    blocks = [("a word" + ("\n" if lines else " ") + "z" * size)[:size] for size in sizes]
    document = Document(name="stretched", head=lambda n: "".join(blocks)[:n], stream=lambda: iter(blocks))
    encode = Encoder(tiny_tokenizer)

    assert [i for ids in encode.in_blocks(document) for i in ids] == encode("".join(blocks))


def test_a_stretch_ends_with_a_line_or_a_word(tiny_tokenizer: Any) -> None:
    def stretches(*blocks: str) -> list[str]:
        document = Document(name="stretched", head=lambda n: "", stream=lambda: iter(blocks))
        return [tiny_tokenizer.decode(ids) for ids in Encoder(tiny_tokenizer).in_blocks(document)]

    assert stretches("one\ntwo three", " four\nfive", "six") == ["one\n", "two three four\n", "fivesix"]
    assert stretches("one two", "three four") == ["one", " twothree four"]
    assert stretches("onetwo", "three") == ["onetwo", "three"]
    assert stretches("one\n") == ["one\n"]


def test_a_huge_file_is_read_in_part(tmp_path: Path, tiny_tokenizer: Any) -> None:
    asked: list[int] = []

    def head(num_characters: int) -> str:
        asked.append(num_characters)
        return "x" * num_characters

    Encoder(tiny_tokenizer).head(Document(name="endless", head=head), 2048)

    assert max(asked) < 20_000


def test_the_hash_follows_the_tokens(tmp_path: Path, tiny_tokenizer: Any) -> None:
    def data_hash(*texts: str) -> str:
        return token_documents(write_lines(tmp_path, *texts), tiny_tokenizer, length=4).data_sha256

    assert data_hash("abcd", "a", "efgh") == data_hash("abc", "efg, and what follows")
    assert data_hash("abcd", "efgh") != data_hash("efgh", "abcd")


# ---------------------------------------------------------------- the cache


@pytest.fixture
def counting(tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tokenizer with a count of its calls, and a cache of its own."""

    class Counting:
        bos_token_id = tiny_tokenizer.bos_token_id
        backend_tokenizer = tiny_tokenizer.backend_tokenizer
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return tiny_tokenizer(*args, **kwargs)

    monkeypatch.setenv("ROPEWALK_CACHE", str(tmp_path / "cache"))
    return Counting()


def cached_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.safetensors"))


def test_a_document_is_tokenised_once(tmp_path: Path, counting: Any) -> None:
    source = write_lines(tmp_path, "some words " * 1000)
    first = token_documents(source, counting, length=2000)
    again = token_documents(source, counting, length=2000)

    assert counting.calls == 1
    assert torch.equal(first.documents[0].ids, again.documents[0].ids)
    assert len(cached_files(tmp_path)) == 1


def test_other_text_length_or_tokenizer_is_another_entry(tmp_path: Path, counting: Any) -> None:
    token_documents(write_lines(tmp_path, "some words " * 1000), counting, length=2000)
    token_documents(write_lines(tmp_path, "same words " * 1000), counting, length=2000)
    token_documents(write_lines(tmp_path, "same words " * 1000), counting, length=2001)
    counting.bos_token_id = 1
    token_documents(write_lines(tmp_path, "same words " * 1000), counting, length=2001)

    assert counting.calls == 4
    assert len(cached_files(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other", "folder"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, counting: Any, damage: str) -> None:
    source = write_lines(tmp_path, "some words " * 1000)
    expected = token_documents(source, counting, length=2000).documents[0].ids
    (file,) = cached_files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-100] ^= 1
    elif damage == "other":
        token_documents(write_lines(tmp_path, "same words " * 1000), counting, length=2000)
        (other,) = set(cached_files(tmp_path)) - {file}
        content = bytearray(other.read_bytes())
        write_lines(tmp_path, "some words " * 1000)
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    if damage != "folder":
        file.write_bytes({"truncated": content[:-7], "empty": b""}.get(damage, content))

    before = counting.calls
    assert torch.equal(token_documents(source, counting, length=2000).documents[0].ids, expected)
    assert counting.calls == before + 1
    if damage != "folder":
        assert torch.equal(token_documents(source, counting, length=2000).documents[0].ids, expected)
        assert counting.calls == before + 1


@pytest.mark.parametrize("place", ["{folder}/file/cache", "~no-such-user/cache"])
def test_without_a_folder_to_write_nothing_is_kept(
    tmp_path: Path, counting: Any, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ROPEWALK_CACHE", place.format(folder=tmp_path))
    source = write_lines(tmp_path, "some words " * 1000)

    assert token_documents(source, counting, length=2000).length == 2000


def test_fingerprints_tell_tokenizers_apart(tiny_tokenizer: Any) -> None:
    class Slow:
        bos_token_id = 0
        init_kwargs: dict[str, Any]

        def __init__(self, **vocabulary: int) -> None:
            self.vocabulary = vocabulary
            self.init_kwargs = {}

        def get_vocab(self) -> dict[str, int]:
            return self.vocabulary

    tokenizers = [tiny_tokenizer, Slow(a=1), Slow(a=2), Slow(a=1, b=2)]

    assert len({tokenizer_fingerprint(tokenizer) for tokenizer in tokenizers}) == 4
    assert tokenizer_fingerprint(Slow(a=1, b=2)) == tokenizer_fingerprint(Slow(b=2, a=1))


# ---------------------------------------------------------------- the standard library


@pytest.fixture
def small_library(tmp_path: Path) -> Path:
    """Five modules of the search split, in its order, each a letter of its own; one is empty."""
    folder = tmp_path / "library"
    (folder / "asyncio").mkdir(parents=True)
    for module, text in {
        "abc": "a" * 10,
        "asyncio/__init__": "",
        "asyncio/base": "b" * 10,
        "asyncio/core": "c" * 30,
        "bdb": "d" * 10,
        "queue": "e" * 5,
        "argparse": "train",
    }.items():
        (folder / f"{module}.py").write_text(text)
    return folder


def test_library_files_are_joined_and_each_used_once(tiny_tokenizer: Any, small_library: Path) -> None:
    found = token_documents("stdlib:search", tiny_tokenizer, length=16, folder=small_library)

    assert [tiny_tokenizer.decode(d.ids) for d in found.documents] == [
        "<s>" + "a" * 10 + "b" * 5,
        "<s>" + "c" * 15,
        "<s>" + "d" * 10 + "e" * 5,
    ]
    assert [d.name for d in found.documents] == [
        "stdlib/abc.py ... stdlib/asyncio/base.py",
        "stdlib/asyncio/core.py",
        "stdlib/bdb.py ... stdlib/queue.py",
    ]


def test_what_is_left_of_the_library_counts_as_too_short(tiny_tokenizer: Any, small_library: Path) -> None:
    found = token_documents("stdlib:search", tiny_tokenizer, length=31, folder=small_library)

    assert (len(found.documents), found.num_read, found.num_too_short) == (1, 2, 1)
    with pytest.raises(DataError, match="66"):
        token_documents("stdlib:search", tiny_tokenizer, length=67, folder=small_library)


@pytest.mark.parametrize(("split", "num_documents"), [("search", 2), ("held-out", 4)])
def test_each_split_gives_documents_of_the_longest_length(
    split: str, num_documents: int, library: Path, scale_tokenizer: Any
) -> None:
    found = token_documents(
        f"stdlib:{split}", scale_tokenizer, length=131_072, num_documents=num_documents, folder=library
    )

    assert len(found.documents) == num_documents


def test_parts_are_consecutive_documents_hashed_as_if_they_were_read_alone(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    source = write_lines(tmp_path, "abcdefgh", "x", "hgfedcba", "aabbccdd")
    whole = token_documents(source, tiny_tokenizer, length=5)
    first, rest = whole.part(0, 1), whole.part(1, 3)

    assert first.documents + rest.documents == whole.documents
    assert first.data_sha256 == token_documents(source, tiny_tokenizer, length=5, num_documents=1).data_sha256
    assert len({whole.data_sha256, first.data_sha256, rest.data_sha256}) == 3
    assert (rest.num_read, rest.num_too_short, rest.source) == (4, 1, source)
    with pytest.raises(AssertionError):
        whole.part(1, 1)


def test_documents_are_the_same_where_their_tokens_are(tmp_path: Path, tiny_tokenizer: Any) -> None:
    source = write_lines(tmp_path, "abcdefgh", "hgfedcba", "abcdxxxx")
    whole = token_documents(source, tiny_tokenizer, length=5)
    parts = [whole.part(index, index + 1) for index in range(3)]
    shared = [[a.shares_documents_with(b) for b in parts] for a in parts]

    assert shared == [[True, False, True], [False, True, False], [True, False, True]]
