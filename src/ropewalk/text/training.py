"""What a fine-tuning reads: documents, one after the other, from a stream that can be stopped and resumed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingDocument:
    """One text to learn from.

    Attributes:
        ids: shape (n,), int64, without BOS and EOS: who packs documents into segments puts those around them.
        counts: shape (n,), float32, 0 or above: what each token weighs in the loss, as the token that is
            predicted; None for 1 everywhere.
        source: where it comes from, for records and messages.
    """

    ids: torch.Tensor
    counts: torch.Tensor | None = None
    source: str


class TrainingStream(Protocol):
    """Documents without end, or until a budget is spent, from a place that can be kept."""

    def __iter__(self) -> Iterator[TrainingDocument]: ...

    def __next__(self) -> TrainingDocument: ...

    def state_dict(self) -> dict[str, Any]:
        """The place as JSON values; `load_state_dict` of it gives the same documents from there on."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
