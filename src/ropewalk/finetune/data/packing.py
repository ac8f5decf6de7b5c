"""Documents to segments of one length, and segments to the batches of each process.

A document is cut where a segment ends and goes on in the next; several share a segment where they are short.
Every piece is bookended with BOS and EOS, as in the paper (LongRoPE, 3.3), here with a length of 8:

    documents   a b c d e f g h i    j k    l ...
    segments    <s> a b c d e f </s>    <s> g h i </s> <s> j k ...

Positions run from 0 to the end of the segment, and each token sees all that stand before it, other
documents too. What a tokenizer lacks of BOS and EOS is left out: pieces then follow each other without it.

With a short length (LongRoPE2's mixed windows) there are two kinds of segments. Documents that fit into the
short length fill rows of it, as many rows as give about as many tokens; positions begin at 0 with every
piece, which keeps pieces from seeing each other. All longer documents are packed as above.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import DataError, FinetuneError
from ropewalk.finetune.data.documents import TrainingDocument, TrainingStream, require_long

UNCOUNTED = -100  # as transformers and cross_entropy have it
FRUITLESS_SEGMENTS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Tokens that are read at once; all tensors have the shape (rows, length).

    Attributes:
        ids, positions: int64.
        targets: the token that follows each, or -100 where the loss counts none.
        weights: what each target's nats are multiplied by; None where all weigh 1.
        is_short: of documents within the original window, to be read with the original RoPE.
        num_pieces: of documents.
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor | None
    is_short: bool
    num_pieces: int

    @property
    def num_counted(self) -> int:
        return int((self.targets != UNCOUNTED).sum())


class Packer:
    """Segments from a stream of documents, without end.

    Its state refers to the stream's own places and to counts of tokens; no text is in it.

    Args:
        bos, eos: token ids, None where the tokenizer has none.
        length: tokens in a segment.
        short_length: the original window, for mixed windows; None packs everything alike.
    """

    def __init__(
        self,
        stream: TrainingStream,
        *,
        bos: int | None,
        eos: int | None,
        length: int,
        short_length: int | None = None,
    ) -> None:
        self._stream = stream
        self._bos, self._eos = bos, eos
        self._ends = (bos is not None) + (eos is not None)
        self._length = length
        self._long = _Lane(length, num_rows=1, ends=self._ends)
        self._short: _Lane | None = None
        if short_length is not None:
            self._short = _Lane(short_length, num_rows=max(1, length // short_length), ends=self._ends)
        self._current: _Piece | None = None
        self._num_documents = 0

    def __iter__(self) -> "Packer":
        return self

    def __next__(self) -> Segment:
        for _ in range(FRUITLESS_SEGMENTS):
            segment = self._build(self._fill())
            if segment.num_counted:
                return segment
        raise DataError(
            f"None of {FRUITLESS_SEGMENTS} segments has a token that counts: check the text's masks."
        )

    def require_long_documents(self) -> None:
        """Refuse a text of which no document fills a segment: nothing in it reaches as far.

        Raises:
            DataError: with the lengths.
        """
        require_long(self._stream.longest, self._length - self._ends, self._length)

    def state_dict(self) -> dict[str, Any]:
        """JSON values, from which `load_state_dict` goes on with the next segment."""
        return {
            "stream": self._stream.state_dict(),
            "num_documents": self._num_documents,
            "current": None if self._current is None else self._current.as_dict(),
            "lanes": [[piece.as_dict() for piece in lane.pieces] for lane in self._lanes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            FinetuneError: a document that a segment was begun with is another now.
        """
        read = _Rereader(self._stream, self._strip)
        for lane, pieces in zip(self._lanes, state["lanes"], strict=True):
            lane.restore([read(piece) for piece in pieces])
        current = state["current"]
        self._current = None if current is None else read(current)
        self._num_documents = state["num_documents"]
        self._stream.load_state_dict(state["stream"])

    @property
    def _lanes(self) -> list["_Lane"]:
        return [self._long] if self._short is None else [self._long, self._short]

    def _fill(self) -> "_Lane":
        """Read on until a lane is full."""
        while True:
            if self._current is None:
                self._current = self._read()
            document = self._current.document
            fits = self._short is not None and len(document.ids) + self._ends <= self._short.length
            lane = self._short if fits and self._short is not None else self._long
            self._current = lane.take(self._current)
            if lane.is_full:
                return lane

    def _read(self) -> "_Piece":
        origin = self._stream.state_dict()
        try:
            document = self._strip(next(self._stream))
        except StopIteration:
            raise DataError(
                f"The text ended after {self._num_documents} documents, before the stage did: give more "
                f"text, or fewer steps."
            ) from None
        self._num_documents += 1
        return _Piece(document, origin, 0, len(document.ids))

    def _strip(self, document: TrainingDocument) -> TrainingDocument:
        """Without BOS and EOS at its ends, which are put around every piece."""
        start, stop = 0, len(document.ids)
        if stop > start and self._bos is not None and int(document.ids[0]) == self._bos:
            start = 1
        if stop > start and self._eos is not None and int(document.ids[-1]) == self._eos:
            stop -= 1
        if (start, stop) == (0, len(document.ids)):
            return document
        counts = None if document.counts is None else document.counts[start:stop]
        return replace(document, ids=document.ids[start:stop], counts=counts)

    def _build(self, lane: "_Lane") -> Segment:
        """A full lane's pieces as tensors; the lane is empty afterwards."""
        is_short = lane is self._short
        num_pieces = len(lane.pieces)
        rows = [self._row(pieces, lane.length, is_short) for pieces in lane.empty()]
        ids, positions, weights = (torch.stack(tensors) for tensors in zip(*rows, strict=True))
        targets = torch.full_like(ids, UNCOUNTED)
        targets[:, :-1] = torch.where(weights[:, 1:] > 0, ids[:, 1:], UNCOUNTED)
        following = torch.zeros_like(weights)
        following[:, :-1] = weights[:, 1:]
        is_plain = bool(((following == 0) | (following == 1)).all())
        return Segment(
            ids=ids,
            positions=positions,
            targets=targets,
            weights=None if is_plain else following,
            is_short=is_short,
            num_pieces=num_pieces,
        )

    def _row(self, pieces: list["_Piece"], length: int, restart: bool) -> tuple[Tensor, Tensor, Tensor]:
        """ids, positions and each token's own weight, shape (length,)."""
        ids, weights, starts = list[Tensor](), list[Tensor](), list[int]()
        used = 0
        for piece in pieces:
            starts.append(used)
            piece_ids, piece_weights = self._bookend(piece)
            ids.append(piece_ids)
            weights.append(piece_weights)
            used += len(piece_ids)
        # Too little room for another piece: filled up with what no token sees and the loss does not count.
        filler = self._eos if self._eos is not None else 0
        ids.append(torch.full((length - used,), filler, dtype=torch.int64))
        weights.append(torch.zeros(length - used))
        positions = torch.arange(length)
        if restart:
            first = torch.zeros(length, dtype=torch.int64)
            first[starts] = torch.tensor(starts)
            positions = positions - first.cummax(0).values
        return torch.cat(ids), positions, torch.cat(weights)

    def _bookend(self, piece: "_Piece") -> tuple[Tensor, Tensor]:
        """BOS counts nowhere; EOS counts where the document really ends there and its last token counts."""
        ids, weights = [piece.ids], [piece.weights]
        if self._bos is not None:
            ids.insert(0, torch.tensor([self._bos]))
            weights.insert(0, torch.zeros(1))
        if self._eos is not None:
            ids.append(torch.tensor([self._eos]))
            ended = piece.stop == len(piece.document.ids)
            weights.append(weights[-1][-1:].clone() if ended else torch.zeros(1))
        weights[0][0] = 0.0  # nothing before it belongs to it
        return torch.cat(ids), torch.cat(weights)


class Batches:
    """The micro-batches of one process, without end: Trainer's data loader.

    Every process packs the same segments and keeps its own, so that a step holds the same segments however
    many processes there are:

        for each micro-batch of a step: for each process: `per_device` segments

    Args:
        process_index, num_processes: among those that read different segments.
    """

    def __init__(
        self,
        packer: Packer,
        *,
        per_device: int,
        process_index: int,
        num_processes: int,
        collate: Callable[[list[Segment]], dict[str, Any]],
    ) -> None:
        self.packer = packer
        self._collate = collate
        self._per_device = per_device
        self._process_index = process_index
        self._num_processes = num_processes

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            own: list[Segment] = []
            for process_index in range(self._num_processes):
                segments = [next(self.packer) for _ in range(self._per_device)]
                if process_index == self._process_index:
                    own = segments
            yield self._collate(own)


def collate(segments: Sequence[Segment]) -> dict[str, Any]:
    """What the model's forward takes, see `finetune.loss`; all segments are of one kind."""
    kinds = {segment.is_short for segment in segments}
    assert len(kinds) == 1, kinds
    targets = torch.cat([segment.targets for segment in segments])
    batch: dict[str, Any] = {
        "input_ids": torch.cat([segment.ids for segment in segments]),
        "position_ids": torch.cat([segment.positions for segment in segments]),
        "labels": targets.clone(),  # unused, but where there are none Trainer does not count tokens
        "shift_labels": targets,
        "is_short": kinds.pop(),
    }
    if any(segment.weights is not None for segment in segments):
        ones = torch.ones_like(segments[0].targets, dtype=torch.float32)
        weights = [ones if segment.weights is None else segment.weights for segment in segments]
        batch["loss_weights"] = torch.cat(weights)
    return batch


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some tokens of a document, and where in the stream that was read."""

    document: TrainingDocument
    origin: dict[str, Any]
    start: int
    stop: int

    @property
    def ids(self) -> Tensor:
        return self.document.ids[self.start : self.stop]

    @property
    def weights(self) -> Tensor:
        """The caller's own, float32."""
        counts = self.document.counts
        if counts is None:
            return torch.ones(self.stop - self.start)
        return counts[self.start : self.stop].to(torch.float32, copy=True)

    @property
    def sha256(self) -> str:
        """Of the whole document's tokens, in short."""
        return hashlib.sha256(self.document.ids.numpy().astype("<i8").tobytes()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        return {"origin": self.origin, "start": self.start, "stop": self.stop, "sha256": self.sha256}


class _Rereader:
    """Pieces from what was noted of them; consecutive ones of one document read it once."""

    def __init__(self, stream: TrainingStream, strip: Any) -> None:
        self._stream = stream
        self._strip = strip
        self._origin: dict[str, Any] | None = None
        self._document: TrainingDocument | None = None

    def __call__(self, noted: dict[str, Any]) -> _Piece:
        if noted["origin"] != self._origin or self._document is None:
            self._stream.load_state_dict(noted["origin"])
            self._document, self._origin = self._strip(next(self._stream)), noted["origin"]
        piece = _Piece(self._document, noted["origin"], noted["start"], noted["stop"])
        if piece.stop > len(piece.document.ids) or noted["sha256"] != piece.sha256:
            raise FinetuneError(
                f"The text is not the one that this stage began with ({piece.document.source} was another): "
                f"give the same, or begin the stage anew in another folder."
            )
        return piece


class _Lane:
    """A segment that is being filled."""

    def __init__(self, length: int, *, num_rows: int, ends: int) -> None:
        self.length = length
        self._num_rows = num_rows
        self._ends = ends
        self._rows: list[list[_Piece]] = [[]]
        self._room = length

    @property
    def pieces(self) -> list[_Piece]:
        return [piece for row in self._rows for piece in row]

    @property
    def is_full(self) -> bool:
        return len(self._rows) > self._num_rows

    def take(self, piece: _Piece) -> _Piece | None:
        """Fill the current row; what does not fit is given back, a whole document to begin the next row."""
        num_needed = piece.stop - piece.start + self._ends
        if piece.document.whole and piece.start == 0 and self._room < num_needed <= self.length:
            self._rows.append([])
            self._room = self.length
            if self.is_full:
                return piece
        num_taken = min(piece.stop - piece.start, self._room - self._ends)
        if num_taken > 0:
            self._rows[-1].append(_Piece(piece.document, piece.origin, piece.start, piece.start + num_taken))
            self._room -= num_taken + self._ends
        if self._room <= self._ends:
            self._rows.append([])
            self._room = self.length
        rest = _Piece(piece.document, piece.origin, piece.start + num_taken, piece.stop)
        return rest if rest.start < rest.stop else None

    def empty(self) -> list[list[_Piece]]:
        """The full rows, which are not here any more."""
        assert self.is_full
        rows = self._rows[:-1]
        assert self._rows[-1] == []
        self._rows, self._room = [[]], self.length
        return rows

    def restore(self, pieces: Sequence[_Piece]) -> None:
        self._rows, self._room = [[]], self.length
        for piece in pieces:
            rest = self.take(piece)
            assert rest is None, "a piece that was in a row fits into it again"
