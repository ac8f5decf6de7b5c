"""What a stage trains on: the protocol, and the simplest text, a list of documents in memory."""

import hashlib
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from ropewalk.errors import DataError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.streaming import BLOCK_SEGMENTS, MOST_DOCUMENTS, packed, read_repeatedly


class TrainingText(Protocol):
    """A text that a stage can train on: `Mixture`, `DocumentList`, or a class of the caller.

    Attributes:
        longest: tokens of the longest known document.
        fingerprint: hash of everything that decides the segments. A stage resumes only if it is the same.
    """

    @property
    def longest(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def segments(self, packing: Packing) -> Any:
        """A `datasets.IterableDataset` with one segment per example, with the fields of `Segment`.

        The order must be the same in every process and at every call, and `state_dict` must give the exact
        position.
        """


class DocumentList:
    """A training text of documents in memory, in the given order.

    Args:
        documents: at least one.
        num_rounds: how many times the list is read; None repeats it without end.

    Raises:
        DataError: the list is empty, or no token of it has a weight above 0.
    """

    def __init__(self, documents: Sequence[TrainingDocument], num_rounds: int | None = None) -> None:
        if not documents:
            raise DataError("The list of training documents is empty: give at least one document.")
        if not any(document.weights is None or bool(document.weights.any()) for document in documents):
            raise DataError("No token of the training documents has a weight above 0: check the weights.")
        self._documents = list(documents)
        self._num_rounds = num_rounds

    @property
    def longest(self) -> int:
        return max(len(document.ids) for document in self._documents)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._num_rounds}".encode())
        for document in self._documents:
            digest.update(document.ids.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def segments(self, packing: Packing) -> Any:
        documents = self._documents
        num_tokens = sum(len(document.ids) for document in documents)
        block = math.ceil(BLOCK_SEGMENTS * packing.length * len(documents) / max(num_tokens, 1))

        def make(numbers: list[int], index: int) -> list[TrainingDocument]:
            return [documents[number] for number in numbers]

        numbers = read_repeatedly(partial(range, len(documents)), self._num_rounds)
        return packed(numbers, make, packing, block=min(block, MOST_DOCUMENTS))


def require_long(longest: int, text_length: int, length: int) -> None:
    """Check that a document fills a segment: otherwise no token depends on distant ones.

    Args:
        longest: tokens of the longest document.
        text_length: tokens of a segment between BOS and EOS.
        length: tokens of a segment.

    Raises:
        DataError: no document is that long.
    """
    if longest < text_length:
        raise DataError(
            f"A segment has {length} tokens, but no document is that long: the longest has {longest} tokens; "
            f"use a shorter stage, join documents, or give longer text."
        )
