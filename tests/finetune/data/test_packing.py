"""Packing: positions, targets, weights, and what a segment contains."""

from itertools import islice

import pytest
import torch
from finetune_stages import make_documents

from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.packing import UNCOUNTED, Packing, collate

BOS, EOS = 0, 1


def document(text, weights=None):
    """One token per letter, from 2."""
    ids = torch.tensor([ord(c) - ord("a") + 2 for c in text])
    given = None if weights is None else torch.tensor([float(c) for c in weights])
    return TrainingDocument(ids=ids, weights=given, source="letters")


def pack(*texts, length=8, bos=BOS, eos=EOS, short_length=None):
    documents = (text if isinstance(text, TrainingDocument) else document(text) for text in texts)
    return Packing(bos=bos, eos=eos, length=length, short_length=short_length).pack(documents)


def show(ids):
    """`<` BOS, `>` EOS, letters, `-` for what is not counted."""
    return "".join({BOS: "<", EOS: ">", UNCOUNTED: "-"}.get(i) or chr(ord("a") + i - 2) for i in ids.tolist())


def test_documents_are_split_joined_and_get_bos_and_eos():
    rows = [(show(s.ids[0]), show(s.targets[0])) for s in pack("abcdefghi", "jk", "lmnopqr")]
    assert rows == [
        ("<abcdef>", "abcdef--"),  # EOS ends the segment, but not the document: it is no target
        ("<ghi><j>", "ghi>-j--"),
        ("<k><lmn>", "k>-lmn--"),
        ("<opqr>>>", "opqr>---"),  # two tokens are left, too few for another piece
    ]


def test_positions_run_from_start_to_end():
    assert next(pack("abc")).positions.tolist() == [list(range(8))]


def test_bos_and_eos_of_a_document_are_not_doubled():
    own = TrainingDocument(ids=torch.tensor([BOS, 2, 3, 4, EOS]), source="chat")
    assert show(next(pack(own, own)).ids[0]) == "<abc><a>"


@pytest.mark.parametrize(
    ("bos", "eos", "ids", "targets"),
    [
        (None, EOS, "abc>abc>", "bc>-bc>-"),
        (BOS, None, "<abc<abc", "abc-abc-"),
        (None, None, "abcabcab", "bc-bc-b-"),
    ],
)
def test_a_tokenizer_may_have_no_bos_or_eos(bos, eos, ids, targets):
    segment = next(pack(*["abc"] * 3, bos=bos, eos=eos))
    assert (show(segment.ids[0]), show(segment.targets[0])) == (ids, targets)


def test_only_tokens_with_a_weight_are_targets():
    segment = next(pack(document("abcd", weights="0110"), document("z")))
    assert show(segment.ids[0]) == "<abcd>>>"
    assert show(segment.targets[0]) == "-bc-----"
    assert segment.is_plain
    assert segment.num_counted == 2
    assert "loss_weights" not in collate([segment])


def test_weights_are_those_of_the_targets():
    segment = next(pack(document("abcd", weights="0250")))
    assert segment.weights.tolist() == [[0, 2, 5, 0, 0, 0, 0, 0]]
    assert torch.equal(collate([segment])["loss_weights"], segment.weights)


def test_a_document_is_not_changed():
    one = document("abcd", weights="1111")
    list(pack(one, bos=None, eos=None))
    assert one.weights.tolist() == [1, 1, 1, 1]


def test_a_whole_document_starts_a_segment_if_it_does_not_fit():
    whole = TrainingDocument(ids=torch.tensor([2, 3, 4, 5]), source="question", whole=True)
    assert [show(segment.ids[0]) for segment in pack("abc", whole)] == ["<abc>>>>", "<abcd>>>"]
    assert [show(segment.ids[0]) for segment in pack("abc", document("abcd"))] == ["<abc><a>", "<bcd>>>>"]


@pytest.mark.parametrize("short_length", [None, 16])
def test_every_token_is_read_once(short_length):
    documents = make_documents()
    packing = Packing(bos=BOS, eos=EOS, length=32, short_length=short_length)
    read = [i for segment in packing.pack(documents) for i in segment.ids.flatten().tolist() if i > EOS]
    assert sorted(read) == sorted(torch.cat([d.ids for d in documents]).tolist())


def test_mixed_windows_keep_short_documents_apart():
    packed = pack("abcdefghijklmn", "op", "qr", "stuvw", length=16, short_length=8)
    long, short = packed
    assert (long.is_short, short.is_short) == (False, True)
    assert show(long.ids[0]) == "<abcdefghijklmn>"
    assert long.positions.tolist() == [list(range(16))]
    assert [show(row) for row in short.ids] == ["<op><qr>", "<stuvw>>"]
    assert short.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]]


def test_the_last_short_rows_are_padded():
    (short,) = pack("op", length=16, short_length=8)
    assert [show(row) for row in short.ids] == ["<op>>>>>", ">>>>>>>>"]
    assert short.num_counted == 3


def test_segments_without_a_target_are_left_out():
    assert list(pack(document("abc", weights="000"))) == []
    assert len(list(islice(pack(document("abc", weights="000"), document("defghi")), 9))) == 2
