"""Documents packed into segments of one length, and segments into batches.

A document is split where a segment ends, and continues in the next one; short documents share a segment.
Every piece has BOS before it and EOS after it (LongRoPE, section 3.3). With a length of 8:

    documents   a b c d e f g h i    j k    l ...
    segments    <s> a b c d e f </s>    <s> g h i </s> <s> j k ...

Positions run from 0 to the end of the segment, and each token attends to all tokens before it, those of other
documents included. A tokenizer without BOS or EOS gives pieces without it.

With a short length (LongRoPE2's mixed windows) there are two kinds of segments. Documents that fit into the
short length fill rows of it, as many rows as give about the same number of tokens. Positions restart at 0
with every piece, so that pieces do not attend to each other. All longer documents are packed as above.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ropewalk.finetune.data.documents import TrainingDocument

UNCOUNTED = -100  # the label that transformers and cross_entropy ignore


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Tokens that a model reads at once; all tensors have the shape (rows, length).

    Attributes:
        ids, positions: int64.
        targets: the next token, or -100 where the loss does not count it.
        weights: weight of each target in the loss, float32.
        is_short: True for documents within the original window, which are read with the original RoPE.
        source: name of the source of its documents.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    is_short: bool
    source: str

    @property
    def num_counted(self) -> int:
        return int((self.targets != UNCOUNTED).sum())

    @property
    def is_plain(self) -> bool:
        """True if all counted targets have the weight 1."""
        return bool(((self.weights == 0) | (self.weights == 1)).all())


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How documents become segments.

    Attributes:
        bos, eos: token ids, or None if the tokenizer has none.
        length: tokens per segment.
        short_length: the original window, for mixed windows; None packs all documents alike.
    """

    bos: int | None
    eos: int | None
    length: int
    short_length: int | None = None

    @classmethod
    def of(cls, tokenizer: Any, length: int, short_length: int | None = None) -> Self:
        """With the BOS and EOS of a tokenizer of transformers."""
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        return cls(bos=bos, eos=eos, length=length, short_length=short_length)

    @property
    def num_ends(self) -> int:
        """Tokens that are added to each piece."""
        return (self.bos is not None) + (self.eos is not None)

    @property
    def text_length(self) -> int:
        """Tokens of a segment between BOS and EOS."""
        return self.length - self.num_ends

    def pack(self, documents: Iterable[TrainingDocument]) -> Iterator[Segment]:
        """Segments of these documents; the last one of each kind has padding. No token is left out.

        Segments without a counted target are left out.
        """
        long, short = _OpenSegment(self, is_short=False), _OpenSegment(self, is_short=True)
        for document in documents:
            stripped = self._strip(document)
            fits = self.short_length is not None and len(stripped.ids) + self.num_ends <= self.short_length
            yield from (short if fits else long).add(stripped)
        for last in (long, short):
            yield from last.close()

    def _strip(self, document: TrainingDocument) -> TrainingDocument:
        """Without the document's own BOS and EOS."""
        start, stop = 0, len(document.ids)
        if stop > start and self.bos is not None and int(document.ids[0]) == self.bos:
            start = 1
        if stop > start and self.eos is not None and int(document.ids[-1]) == self.eos:
            stop -= 1
        weights = None if document.weights is None else document.weights[start:stop]
        return TrainingDocument(
            ids=document.ids[start:stop], weights=weights, source=document.source, whole=document.whole
        )


class _OpenSegment:
    """A segment that is being filled with pieces, row by row."""

    def __init__(self, packing: Packing, *, is_short: bool) -> None:
        self._packing = packing
        self._is_short = is_short
        self._length, self._num_rows = packing.length, 1
        if is_short and packing.short_length is not None:
            self._length = packing.short_length
            self._num_rows = max(1, packing.length // packing.short_length)
        self._rows: list[_Row] = []
        self._row = _Row(self._length)
        self._source = ""

    def add(self, document: TrainingDocument) -> Iterator[Segment]:
        """Append a document; yields the segments that it completes."""
        self._source = document.source
        num_ends, stop = self._packing.num_ends, len(document.ids)
        if document.whole and self._row.num_free < stop + num_ends <= self._length:
            yield from self._end_row()
        start = 0
        while start < stop:
            end = min(stop, start + self._row.num_free - num_ends)
            self._row.append(*_with_ends(document, start, end, self._packing))
            start = end
            if self._row.num_free <= num_ends:
                yield from self._end_row()

    def close(self) -> Iterator[Segment]:
        """Yields the last segment, padded."""
        if self._row.ids:
            yield from self._end_row()
        while self._rows:
            yield from self._end_row()

    def _end_row(self) -> Iterator[Segment]:
        self._rows.append(self._row)
        self._row = _Row(self._length)
        if len(self._rows) == self._num_rows:
            rows, self._rows = self._rows, []
            segment = self._build(rows)
            if segment.num_counted:
                yield segment

    def _build(self, rows: list["_Row"]) -> Segment:
        padding = 0 if self._packing.eos is None else self._packing.eos
        ids = torch.stack([row.padded_ids(padding) for row in rows])
        own = torch.stack([row.padded_weights() for row in rows])
        positions = torch.stack([row.positions(restart=self._is_short) for row in rows])
        targets = torch.full_like(ids, UNCOUNTED)
        targets[:, :-1] = torch.where(own[:, 1:] > 0, ids[:, 1:], UNCOUNTED)
        weights = torch.zeros_like(own)
        weights[:, :-1] = own[:, 1:]
        return Segment(
            ids=ids,
            positions=positions,
            targets=targets,
            weights=weights,
            is_short=self._is_short,
            source=self._source,
        )


class _Row:
    """A row of a segment: pieces one after another."""

    def __init__(self, length: int) -> None:
        self.num_free = length
        self.ids: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._starts: list[int] = []
        self._length = length

    def append(self, ids: Tensor, weights: Tensor) -> None:
        self._starts.append(self._length - self.num_free)
        self.ids.append(ids)
        self._weights.append(weights)
        self.num_free -= len(ids)

    def padded_ids(self, padding: int) -> Tensor:
        return torch.cat([*self.ids, torch.full((self.num_free,), padding, dtype=torch.int64)])

    def padded_weights(self) -> Tensor:
        return torch.cat([*self._weights, torch.zeros(self.num_free)])

    def positions(self, *, restart: bool) -> Tensor:
        """From 0 to the end; with `restart` each piece begins at 0."""
        positions = torch.arange(self._length)
        if restart:
            first = torch.zeros(self._length, dtype=torch.int64)
            first[self._starts] = torch.tensor(self._starts, dtype=torch.int64)
            positions = positions - first.cummax(0).values
        return positions


def _with_ends(document: TrainingDocument, start: int, stop: int, packing: Packing) -> tuple[Tensor, Tensor]:
    """Token ids and weights of a piece with BOS and EOS.

    BOS has the weight 0. EOS counts where the document ends and the last token of it counts.
    """
    ids = [document.ids[start:stop]]
    own = torch.ones(stop - start) if document.weights is None else document.weights[start:stop].float()
    weights = [own.clone()]
    if packing.bos is not None:
        ids.insert(0, torch.tensor([packing.bos]))
        weights.insert(0, torch.zeros(1))
    if packing.eos is not None:
        ids.append(torch.tensor([packing.eos]))
        weights.append(own[-1:].clone() if stop == len(document.ids) else torch.zeros(1))
    weights[0][0] = 0.0  # its previous token belongs to another document
    return torch.cat(ids), torch.cat(weights)


def collate(segments: Sequence[Segment]) -> dict[str, Any]:
    """The arguments of the model's forward, see `finetune.loss`; all segments are of one kind."""
    kinds = {segment.is_short for segment in segments}
    assert len(kinds) == 1, kinds
    targets = torch.cat([segment.targets for segment in segments])
    batch: dict[str, Any] = {
        "input_ids": torch.cat([segment.ids for segment in segments]),
        "position_ids": torch.cat([segment.positions for segment in segments]),
        "labels": targets.clone(),  # Trainer counts tokens only if there are labels
        "shift_labels": targets,
        "is_short": kinds.pop(),
    }
    if not all(segment.is_plain for segment in segments):
        batch["loss_weights"] = torch.cat([segment.weights for segment in segments])
    return batch
