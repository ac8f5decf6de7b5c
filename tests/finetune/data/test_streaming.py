"""Blocks that are shuffled and packed: every item once, another order each round, an exact position."""

import json
from itertools import islice

import pytest
import torch

from ropewalk.errors import DataError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.streaming import SHUFFLED_DOCUMENTS, packed, read_repeatedly, shuffled

PACKING = Packing(bos=None, eos=None, length=2)


def stream(num_items, block=7, seed="0"):
    """Item n becomes the document (n, n), so a segment shows its item."""
    items = shuffled(
        read_repeatedly(lambda: iter(range(num_items))), seed, min(num_items, SHUFFLED_DOCUMENTS)
    )

    def make(numbers, index):
        return [TrainingDocument(ids=torch.tensor([n, n]), source="numbers") for n in numbers]

    return packed(items, make, PACKING, block=block)


def numbers(segments, count):
    return [int(segment["ids"][0, 0]) for segment in islice(segments, count)]


@pytest.mark.parametrize("num_items", [9, SHUFFLED_DOCUMENTS])
def test_every_item_is_read_once_in_each_round_in_another_order(num_items):
    found = numbers(stream(num_items), 3 * num_items)
    rounds = [found[start : start + num_items] for start in range(0, len(found), num_items)]
    assert all(sorted(order) == list(range(num_items)) for order in rounds)
    assert len({tuple(order) for order in [*rounds, range(num_items)]}) == 4


def test_the_seed_decides_the_order():
    assert numbers(stream(300), 300) == numbers(stream(300), 300)
    assert numbers(stream(300), 300) != numbers(stream(300, seed="1"), 300)


@pytest.mark.parametrize("cut", [1, 6, 7, 8, 300, 777])
def test_a_position_is_exact(cut):
    """Within a block, at its end, and in a later round."""
    whole = stream(300)
    iterator = iter(whole)
    numbers(iterator, cut)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = stream(300)
    resumed.load_state_dict(state)
    assert numbers(resumed, 600) == numbers(iterator, 600)


def test_no_more_than_a_block_of_items_is_read_ahead():
    read = []

    def endless():
        for number in range(10**6):
            read.append(number)
            yield number

    def make(numbers, index):
        return [TrainingDocument(ids=torch.tensor([n, n]), source="numbers") for n in numbers]

    segments = packed(shuffled(read_repeatedly(endless), "0"), make, PACKING, block=7)
    numbers(segments, 10)
    assert len(read) == SHUFFLED_DOCUMENTS


def test_a_cache_folder_that_can_not_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    with pytest.raises(DataError, match="HF_DATASETS_CACHE") as caught:
        stream(3)
    assert "\n" not in str(caught.value)
