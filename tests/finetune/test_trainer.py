"""The batches of each process."""

from itertools import islice
from types import SimpleNamespace

import pytest
from finetune_stages import make_documents

from ropewalk.errors import DataError
from ropewalk.finetune.data.packing import Packing, collate
from ropewalk.finetune.data.training_text import DocumentList
from ropewalk.finetune.trainer import StageTrainer

PACKING = Packing(bos=0, eos=1, length=32)


def batches(index, count, per_device, cp_size=1, num_rounds=None):
    """The batches of process `index` of `count`."""
    return StageTrainer._batches(
        SimpleNamespace(
            settings=SimpleNamespace(per_device_batch_size=per_device, cp_size=cp_size),
            ranks=SimpleNamespace(index=index, count=count),
            segments=DocumentList(make_documents(), num_rounds).segments(PACKING),
            collate=collate,
        )
    )


def rows(some):
    return [row for batch in some for row in batch["input_ids"].tolist()]


@pytest.mark.parametrize(("count", "per_device"), [(1, 1), (1, 4), (2, 2), (4, 1)])
def test_a_step_has_the_same_segments_with_any_number_of_processes(count, per_device):
    num_batches = 8 // (count * per_device)  # two steps of four segments
    found = [rows(islice(batches(index, count, per_device), num_batches)) for index in range(count)]
    expected = rows(islice(batches(0, 1, 1), 8))
    assert sorted(row for own in found for row in own) == sorted(expected)
    for index in range(count):  # the first micro-batch of the process
        assert found[index][:per_device] == expected[index * per_device :][:per_device]


def test_processes_that_share_a_segment_read_the_same_batches():
    found = [rows(islice(batches(index, 4, 1, cp_size=2), 3)) for index in range(4)]
    assert found[0] == found[1] != found[2] == found[3]


def test_a_text_ends_for_all_processes_at_once():
    found = []
    for index in range(3):
        batch = batches(index, 3, 1, num_rounds=1)
        with pytest.raises(DataError, match="ended"):
            found.append([])
            while True:
                found[-1] += rows([next(batch)])
    assert len({len(read) for read in found}) == 1
