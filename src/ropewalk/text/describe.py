"""What a training text is made of: lengths, near-duplicates, and what it shares with evaluation text."""

import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from ropewalk.errors import DataError
from ropewalk.finetune.data.sources import BETWEEN_JOINED, Group, Join, group_name, join_documents
from ropewalk.text.documents import Kind, read_documents
from ropewalk.text.tokens import Encoder

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
SHORTEST_BUCKET = 256  # tokens; each further one goes twice as far
WORDS_ALIKE = 5  # in a row: documents are near-duplicates where they share most of such stretches
WORDS_SHARED = 13  # in a row: no accident, as in GPT-3's and later reports on contamination
ALIKE = 0.8
OVERLAPPING = 0.1
WORST_SHOWN = 10
NUM_PERMUTATIONS = 128
SHINGLES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Documents of more than `above` and up to and including `up_to` tokens."""

    above: int
    up_to: int
    num_documents: int
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """A document and an earlier one that is much like it; the similarity is an estimate, 0.04 in error."""

    document: str
    earlier: str
    similarity: float
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A document and the share of its stretches of 13 words that stand in evaluation text too."""

    document: str
    share: float


@dataclass(frozen=True, kw_only=True)
class TextDescription:
    """What `describe_texts` found.

    Attributes:
        lengths: in tokens, without BOS and EOS, by quantile.
        num_shared, num_stretches: stretches of 13 words that evaluation text holds too, of all; None where
            there was none to compare with.
        overlaps: documents that share a tenth or more of their stretches, the worst first.
    """

    num_documents: int
    num_tokens: int
    lengths: dict[float, int]
    buckets: tuple[Bucket, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    num_shared: int | None
    num_stretches: int | None
    overlaps: tuple[Overlap, ...]


OnDocument = Callable[[int, int], None]


def describe_texts(
    sources: Sequence[str],
    tokenizer: Any,
    *,
    against: Sequence[str] = (),
    kind: Kind = "text",
    join: Join = "none",
    num_documents: int | None = None,
    on_document: OnDocument | None = None,
) -> TextDescription:
    """Read texts once, a document at a time, and say what is in them.

    Plain `stdlib` is its training part in `sources`, its held-out part in `against`. Of evaluation text only
    hashes of its stretches are kept in memory, of the sources a signature a document.

    Args:
        kind, join: as in `SourceSettings`; of chats the contents are read, without a template.
        num_documents: of each source at most; None for all.
        on_document: told the documents and the tokens so far.

    Raises:
        DataError: a text can't be read, or there is none.
    """
    encode = Encoder(tokenizer)
    known = _Known(against) if against else None
    alike = _Alike()
    names, lengths = list[str](), list[int]()
    overlaps, num_shared, num_stretches, num_tokens = list[Overlap](), 0, 0, 0
    for source in sources:
        documents = read_documents(source, split="train", kind=kind, by_folder=join == "folder")
        for group in islice(join_documents(documents, join), num_documents):
            name, length = group_name(group), _count_tokens(group, encode)
            names.append(name)
            lengths.append(length)
            num_tokens += length
            alike.add(_shingles(_words(group), WORDS_ALIKE))
            if known is not None:
                shared, total = known.count(_words(group))
                num_shared, num_stretches = num_shared + shared, num_stretches + total
                if total and shared / total >= OVERLAPPING:
                    overlaps.append(Overlap(document=name, share=shared / total))
            if on_document:
                on_document(len(names), num_tokens)
    if not names:
        raise DataError(f"{', '.join(sources)}: no document in there; name a text.")
    return TextDescription(
        num_documents=len(names),
        num_tokens=num_tokens,
        lengths=_quantiles(lengths),
        buckets=_buckets(lengths),
        near_duplicates=tuple(
            NearDuplicate(
                document=names[index], earlier=names[other], similarity=similarity, num_tokens=lengths[index]
            )
            for index, other, similarity in alike.pairs
        ),
        num_shared=num_shared if known else None,
        num_stretches=num_stretches if known else None,
        overlaps=tuple(sorted(overlaps, key=lambda overlap: -overlap.share)),
    )


class _Known:
    """The stretches of evaluation text."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._hashes = {
            hash(words)
            for source in sources
            for document in read_documents(source, split="held_out")
            for words in _stretches(_words((document,)), WORDS_SHARED)
        }

    def count(self, words: Iterator[str]) -> tuple[int, int]:
        """(stretches that are known, stretches)"""
        shared = total = 0
        for stretch in _stretches(words, WORDS_SHARED):
            total += 1
            shared += hash(stretch) in self._hashes
        return shared, total


class _Alike:
    """Which documents are near-duplicates of an earlier one, by MinHash signatures and their bands.

    Attributes:
        pairs: (document, the earlier one that is most like it, similarity), counted from 0.
    """

    def __init__(self) -> None:
        from datasketch import MinHashLSH  # noqa: PLC0415 (slow to import)

        self.pairs: list[tuple[int, int, float]] = []
        self._index = MinHashLSH(threshold=ALIKE, num_perm=NUM_PERMUTATIONS)
        self._signatures: list[Any] = []

    def add(self, shingles: Iterator[int]) -> None:
        from datasketch import MinHash  # noqa: PLC0415

        signature = MinHash(num_perm=NUM_PERMUTATIONS, hashfunc=int)
        is_empty = True
        while some := list(islice(shingles, SHINGLES_AT_ONCE)):
            signature.update_batch(some)
            is_empty = False
        number = len(self._signatures)
        self._signatures.append(signature)
        if is_empty:
            return
        similar = [
            (float(signature.jaccard(self._signatures[other])), -other)
            for other in self._index.query(signature)
        ]
        similarity, other = max(similar, default=(0.0, 0))
        if similarity >= ALIKE:
            self.pairs.append((number, -other, similarity))
        self._index.insert(number, signature)


def _words(group: Group) -> Iterator[str]:
    for document in group:
        for stretch in document.stretches():
            yield from re.findall(r"\w+", stretch.lower())


def _stretches(words: Iterator[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every `length` words in a row."""
    row = deque(islice(words, length - 1), maxlen=length)
    for word in words:
        row.append(word)
        yield tuple(row)


def _shingles(words: Iterator[str], length: int) -> Iterator[int]:
    """A 32-bit hash of every stretch, the same in every process; of all words where there are fewer."""
    first = list(islice(words, length))
    if 0 < len(first) < length:
        yield zlib.crc32(" ".join(first).encode())
        return
    for stretch in _stretches(chain(first, words), length):
        yield zlib.crc32(" ".join(stretch).encode())


def _count_tokens(group: Group, encode: Encoder) -> int:
    between = (len(group) - 1) * len(encode(BETWEEN_JOINED))
    return between + sum(len(ids) for document in group for ids in encode.in_blocks(document))


def _quantiles(lengths: list[int]) -> dict[float, int]:
    found = np.quantile(lengths, QUANTILES, method="lower")
    return {quantile: int(value) for quantile, value in zip(QUANTILES, found, strict=True)}


def _buckets(lengths: list[int]) -> tuple[Bucket, ...]:
    """From the shortest that holds a document to the longest, those between them too."""
    buckets, above, up_to = list[Bucket](), 0, SHORTEST_BUCKET
    while above < max(lengths) or not buckets:
        inside = [length for length in lengths if above < length <= up_to or (length == 0 == above)]
        buckets.append(Bucket(above=above, up_to=up_to, num_documents=len(inside), num_tokens=sum(inside)))
        above, up_to = up_to, 2 * up_to
    first = next(index for index, bucket in enumerate(buckets) if bucket.num_documents)
    return tuple(buckets[first:])
