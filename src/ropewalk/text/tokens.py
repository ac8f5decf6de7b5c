"""Documents to token ids, each document cut to one length; ids are cached."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ropewalk.errors import DataError, SettingError
from ropewalk.text.cache import cached_ids, store_ids
from ropewalk.text.documents import Document
from ropewalk.text.sources import is_stdlib, read_documents
from ropewalk.text.stdlib import Split

CHARACTERS_PER_TOKEN = 5  # a first estimate; if it is too low, `Encoder.head` reads more
SPARE_TOKENS = 64
FEWEST_CACHED_CHARACTERS = 4096  # tokenising less is faster than reading the cache


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenDocument:
    """The first tokens of a document.

    Attributes:
        name: for messages.
        ids: shape (n,), int64; begins with the tokenizer's BOS if it has one.
    """

    name: str
    ids: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentSet:
    """The documents that a search or an evaluation reads.

    Attributes:
        documents: at least one, all of one length.
        num_read: documents read; `num_too_short` of them were left out.
        data_sha256: SHA-256 of all token ids.
        source: as the user named it.
    """

    documents: tuple[TokenDocument, ...]
    num_read: int
    num_too_short: int
    data_sha256: str
    source: str

    @property
    def length(self) -> int:
        """The number of tokens in each document."""
        return len(self.documents[0].ids)

    def part(self, start: int, stop: int) -> "DocumentSet":
        """Returns documents `start` to `stop`; `num_read` and `num_too_short` stay those of the whole set."""
        documents = self.documents[start:stop]
        assert documents, (start, stop, len(self.documents))
        return replace(self, documents=documents, data_sha256=_hash_ids(documents))

    def shares_documents_with(self, other: "DocumentSet", length: int | None = None) -> bool:
        """Returns whether a document of both sets has the same tokens, or the same first `length` tokens."""
        ours = {_bytes(document, length) for document in self.documents}
        return any(_bytes(document, length) in ours for document in other.documents)


def token_documents(
    source: str,
    tokenizer: Any,
    *,
    length: int,
    num_documents: int | None = None,
    split: Split = "held_out",
    folder: Path | None = None,
    start: int = 0,
    stop: int | None = None,
) -> DocumentSet:
    """Returns the first `num_documents` documents of a source that are long enough, cut to `length` tokens.

    The length includes BOS if the tokenizer has one. A document shorter than `length` is left out and
    counted. The files of the standard library are joined in their fixed order instead, and each is used once:
    a document ends within the file that fills it, and the next document begins with the next file.

    Example:
        documents = token_documents("books/*.txt", model.tokenizer, length=8192, num_documents=10)
        documents.documents[0].ids.shape  # (8192,)

    Args:
        source: a file, a folder, a glob, a hub data set, or `stdlib` (see `ropewalk.text.sources`).
        tokenizer: a transformers tokenizer.
        length: tokens per document, at least 2.
        num_documents: at most this many; None for all.
        split, folder: see `read_documents`.
        start, stop: the range of the source's documents to read, counted before short ones are left out.

    Returns:
        At least one document, each with ids of shape (length,).

    Raises:
        DataError: the source can't be read, or has no document of `length` tokens (names the longest).
        SettingError: `length` or `num_documents` is out of range.
    """
    if length < 2 or (num_documents is not None and num_documents < 1):
        raise SettingError(
            f"{num_documents} documents of {length} tokens were requested: give at least 1 document of 2 "
            f"tokens."
        )
    encode = Encoder(tokenizer)
    texts = islice(read_documents(source, split=split, folder=folder), start, stop)
    tokenised = _join(texts, encode, length) if is_stdlib(source) else _separate(texts, encode, length)
    documents: list[TokenDocument] = []
    num_read, longest = 0, 0
    for document in tokenised:
        num_read += 1
        longest = max(longest, len(document.ids))
        if len(document.ids) == length:
            documents.append(document)
        if len(documents) == num_documents:
            break
    if not documents:
        raise DataError(_none_long_enough(source, length, num_read, longest))
    return DocumentSet(
        documents=tuple(documents),
        num_read=num_read,
        num_too_short=num_read - len(documents),
        data_sha256=_hash_ids(documents),
        source=source,
    )


class Encoder:
    """Maps text to ids without special tokens.

    Attributes:
        start: the ids that begin a document: BOS if the tokenizer has one.
        fingerprint: SHA-256 of the tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        bos = tokenizer.bos_token_id
        self.start: list[int] = [] if bos is None else [int(bos)]
        self.fingerprint = tokenizer_fingerprint(tokenizer)

    def __call__(self, text: str) -> list[int]:
        encoded = self.tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return list(encoded["input_ids"])

    def head(self, document: Document, num_tokens: int) -> list[int]:
        """Returns the first `num_tokens` ids of a document, fewer if it is shorter; cached by content.

        It tokenises some more text than needed, so that the cut in the text lies behind the last id that is
        returned: the ids equal those of the whole text.
        """
        enough = num_tokens + SPARE_TOKENS
        num_characters = CHARACTERS_PER_TOKEN * enough
        while True:
            text = document.head(num_characters)
            ended = len(text) < num_characters
            ids = self._cached(text, enough)
            if ended or len(ids) == enough:
                return ids[:num_tokens]
            num_characters *= 2

    def in_blocks(self, document: Document) -> Iterator[list[int]]:
        """Yields all ids of a document, piece by piece; not cached, because a document may have any size.

        If a tokenizer merges across the end of a piece, the ids there differ from those of the whole text.
        """
        yield from map(self, document.stretches())

    def _cached(self, text: str, num_tokens: int) -> list[int]:
        if len(text) < FEWEST_CACHED_CHARACTERS:
            return self(text)[:num_tokens]
        key = hashlib.sha256(f"{self.fingerprint} {num_tokens}\n".encode() + text.encode()).hexdigest()
        ids = cached_ids(key)
        if ids is None:
            ids = self(text)[:num_tokens]
            store_ids(key, ids)
        return ids


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Returns the SHA-256 of everything that decides which ids a text has."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = backend.to_str()
    else:
        rules = repr((type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), tokenizer.init_kwargs))
    return hashlib.sha256(f"{tokenizer.bos_token_id} {rules}".encode()).hexdigest()


def _separate(texts: Iterable[Document], encode: Encoder, length: int) -> Iterator[TokenDocument]:
    """One document per text."""
    num_tokens = length - len(encode.start)
    for text in texts:
        yield _token_document(text.name, encode.start + encode.head(text, num_tokens))


def _join(texts: Iterable[Document], encode: Encoder, length: int) -> Iterator[TokenDocument]:
    """Consecutive texts, joined until they have `length` tokens; the last document may be shorter."""
    ids, names = list(encode.start), list[str]()
    for text in texts:
        ids += encode.head(text, length - len(ids))
        names.append(text.name)
        if len(ids) == length:
            yield _token_document(_span(names), ids)
            ids, names = list(encode.start), []
    if names:
        yield _token_document(_span(names), ids)


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"


def _token_document(name: str, ids: list[int]) -> TokenDocument:
    return TokenDocument(name=name, ids=torch.tensor(ids, dtype=torch.int64))


def _hash_ids(documents: Sequence[TokenDocument]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(_bytes(document))
    return digest.hexdigest()


def _bytes(document: TokenDocument, length: int | None = None) -> bytes:
    return document.ids[:length].numpy().astype("<i8").tobytes()


def _none_long_enough(source: str, length: int, num_read: int, longest: int) -> str:
    if num_read == 0:
        return f"{source} has no document: name another text."
    return (
        f"{source} has no document of {length} tokens: the longest of {num_read} has {longest}; "
        f"give a shorter length, or name a longer text."
    )
