"""Documents and segments as a `datasets.IterableDataset` with an exact position.

    read -> repeat -> shuffle in blocks of documents -> pack blocks into segments

`IterableDataset.shuffle` is not used: the buffer is not part of `state_dict`, so a resumed stage would read
other batches. A `map` over blocks shuffles within a block, and `state_dict` is exact for it: the block
before the position, and how many of its results were read.
"""

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from datasets import Features, IterableDataset, List, Value

from ropewalk.errors import DataError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.packing import Packing

SHUFFLED_DOCUMENTS = 256  # documents that are shuffled together
BLOCK_SEGMENTS = 32  # segments that are packed at once; only the last one of a block has padding
MOST_DOCUMENTS = 4096  # of a block
ITEM = "item"
FEATURES = Features(
    {
        "ids": List(List(Value("int64"))),
        "positions": List(List(Value("int64"))),
        "targets": List(List(Value("int64"))),
        "weights": List(List(Value("float32"))),
        "is_short": Value("bool"),
        "source": Value("string"),
    }
)

Columns = dict[str, list[Any]]

_one_at_a_time = threading.Lock()  # tokenizers are not thread-safe


def read_repeatedly(read: Callable[[], Iterable[Any]], num_rounds: int | None = None) -> Any:
    """A dataset of the items of `read`, `num_rounds` times or without end.

    Args:
        read: returns the items, every time in the same order. `datasets` hashes it, so it should refer to
            settings, and not to a tokenizer or to text.
        num_rounds: None for no end.

    Raises:
        DataError: the cache folder of `datasets` can't be written (it creates a lock there).
    """

    def generate() -> Iterator[dict[str, Any]]:
        for item in read():
            yield {ITEM: item}

    try:
        return IterableDataset.from_generator(generate).repeat(num_rounds)
    except OSError as error:
        raise DataError(
            f"The cache folder of `datasets` can't be written ({error.strerror or error}): set "
            f"HF_DATASETS_CACHE to a folder that can be written."
        ) from None


def shuffled(items: Any, seed: str, block: int = SHUFFLED_DOCUMENTS) -> Any:
    """A dataset in another order: each block of items is shuffled, every time in another way.

    If a block has all items of a round, every round has every item once.
    """

    def shuffle(columns: Columns, indices: list[int]) -> Columns:
        ordered = columns[ITEM]
        return {ITEM: random.Random(f"{seed} {indices[0]}").sample(ordered, len(ordered))}

    return items.map(shuffle, batched=True, batch_size=block, with_indices=True)


def packed(
    items: Any,
    make: Callable[[list[Any], int], Sequence[TrainingDocument]],
    packing: Packing,
    *,
    block: int,
) -> Any:
    """A dataset of segments.

    Args:
        make: documents from a block of items and the index of its first item.
        block: items that are packed together. Documents of two blocks share no segment.
    """

    def pack(columns: Columns, indices: list[int]) -> Columns:
        with _one_at_a_time:
            segments = list(packing.pack(make(columns[ITEM], indices[0])))
        return {name: [getattr(segment, name) for segment in segments] for name in FEATURES}

    return items.map(
        pack,
        batched=True,
        batch_size=block,
        with_indices=True,
        remove_columns=[ITEM],
        features=FEATURES,
    )
