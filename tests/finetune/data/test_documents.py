"""A stream in memory: its order, its places, its end."""

import json

import pytest
import torch

from ropewalk.errors import DataError
from ropewalk.finetune.data.documents import ListStream, TrainingDocument

DOCUMENTS = [TrainingDocument(ids=torch.arange(n), source=f"s{n}") for n in (3, 1, 2)]


def test_documents_come_round_again():
    stream = ListStream(DOCUMENTS)
    assert [next(stream).source for _ in range(5)] == ["s3", "s1", "s2", "s3", "s1"]


def test_the_longest_document_is_known():
    assert ListStream(DOCUMENTS).longest == 3


def test_rounds_end():
    assert [d.source for d in ListStream(DOCUMENTS, num_rounds=2)] == ["s3", "s1", "s2"] * 2


def test_a_place_is_gone_back_to():
    stream = ListStream(DOCUMENTS)
    next(stream)
    place = json.loads(json.dumps(stream.state_dict()))
    following = [next(stream).source for _ in range(4)]
    other = ListStream(DOCUMENTS)
    other.load_state_dict(place)
    assert [next(other).source for _ in range(4)] == following


def test_no_document_is_refused():
    with pytest.raises(DataError, match="No document was given"):
        ListStream([])
