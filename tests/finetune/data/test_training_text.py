"""Documents in memory as a training text: order, rounds, position, and mistakes."""

import json
from itertools import islice

import pytest
import torch

from ropewalk.errors import DataError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.training_text import DocumentList, require_long

DOCUMENTS = [TrainingDocument(ids=torch.arange(n) + 10 * n, source="list") for n in (6, 2, 3)]
PACKING = Packing(bos=None, eos=None, length=4)


def tokens(segments, num_segments):
    return [segment["ids"].flatten().tolist() for segment in islice(segments, num_segments)]


def test_documents_repeat_in_their_order():
    assert tokens(DocumentList(DOCUMENTS).segments(PACKING), 5) == [
        [60, 61, 62, 63],
        [64, 65, 20, 21],
        [30, 31, 32, 60],
        [61, 62, 63, 64],
        [65, 20, 21, 30],
    ]


def test_rounds_end_and_no_token_is_lost():
    found = tokens(DocumentList(DOCUMENTS, num_rounds=2).segments(PACKING), 100)
    expected = torch.cat([document.ids for document in DOCUMENTS * 2]).tolist()
    assert [token for segment in found for token in segment] == [*expected, 0, 0]


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_position_is_exact(cut):
    whole = DocumentList(DOCUMENTS).segments(PACKING)
    iterator = iter(whole)
    tokens(iterator, cut)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = DocumentList(DOCUMENTS).segments(PACKING)
    resumed.load_state_dict(state)
    assert tokens(resumed, 30) == tokens(iterator, 30)


def test_the_fingerprint_is_of_the_tokens():
    assert DocumentList(DOCUMENTS).fingerprint == DocumentList(DOCUMENTS).fingerprint
    for other in (DocumentList(DOCUMENTS[:2]), DocumentList(DOCUMENTS, 1)):
        assert other.fingerprint != DocumentList(DOCUMENTS).fingerprint


def test_no_document_and_no_weight_are_refused():
    nothing = TrainingDocument(ids=torch.arange(5), weights=torch.zeros(5), source="list")
    for documents in ([], [nothing]):
        with pytest.raises(DataError, match="document"):
            DocumentList(documents)


def test_a_document_must_fill_a_segment():
    assert DocumentList(DOCUMENTS).longest == 6
    require_long(6, 6, 8)
    with pytest.raises(DataError, match="5 tokens"):
        require_long(5, 6, 8)
