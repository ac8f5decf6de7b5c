"""What fine-tuning reads: documents one after another, from a place that can be noted and gone back to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ropewalk.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingDocument:
    """One document's tokens, and which of them the loss counts.

    Attributes:
        ids: shape (n,), int64. BOS and EOS at its ends are left out or there: packing sees to both.
        counts: shape (n,), bool or float weights; None counts every token. A token counts where it is
            predicted, not where it is read.
        source: of which source it is, for the record.
        whole: whether it is worth nothing in two pieces, as a question without the text that it asks about:
            packing begins a segment with it where it does not fit into the one at hand.
    """

    ids: torch.Tensor
    counts: torch.Tensor | None = None
    source: str
    whole: bool = False

    def __post_init__(self) -> None:
        assert self.ids.ndim == 1, self.ids.shape
        assert self.counts is None or self.counts.shape == self.ids.shape


class TrainingStream(Protocol):
    """Documents in an order that is the same every time it is read from the same place.

    `state_dict` says, as JSON values and in no more than a moment, which document comes next; after
    `load_state_dict` of it that one does come next. `StopIteration` means that there are no more.
    `longest` is of the longest document, tokens, as far as is known without reading on.
    """

    @property
    def longest(self) -> int: ...

    def __iter__(self) -> "TrainingStream": ...

    def __next__(self) -> TrainingDocument: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class ListStream:
    """Documents that are in memory, over and over, or `num_rounds` times.

    Raises:
        DataError: there is none.
    """

    def __init__(self, documents: Sequence[TrainingDocument], num_rounds: int | None = None) -> None:
        if not documents:
            raise DataError("No document was given to train on: name a text.")
        self._documents = documents
        self._num_documents = None if num_rounds is None else num_rounds * len(documents)
        self._next = 0

    @property
    def longest(self) -> int:
        return max(len(document.ids) for document in self._documents)

    def __iter__(self) -> "ListStream":
        return self

    def __next__(self) -> TrainingDocument:
        if self._next == self._num_documents:
            raise StopIteration
        document = self._documents[self._next % len(self._documents)]
        self._next += 1
        return document

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._next = int(state["next"])


def require_long(longest: int, room: int, length: int) -> None:
    """Refuse a text of which no document fills a segment: nothing in it reaches as far.

    Args:
        longest: of its documents, tokens.
        room: of a segment between BOS and EOS.
        length: of a segment.

    Raises:
        DataError: with the lengths.
    """
    if longest < room:
        raise DataError(
            f"The stage reads segments of {length} tokens, but no document is as long: the longest has "
            f"{longest}; make the stage shorter, join documents, or name longer text."
        )
