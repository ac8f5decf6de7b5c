"""Packing: what stands where, what counts, what sees what, and going on."""

import json

import pytest
import torch
from finetune_stages import make_documents

from ropewalk.errors import DataError, FinetuneError
from ropewalk.finetune.data.documents import ListStream, TrainingDocument
from ropewalk.finetune.data.packing import UNCOUNTED, Batches, Packer, collate

BOS, EOS = 0, 1


def document(text, counts=None):
    """A letter a token, from 2."""
    ids = torch.tensor([" .".index(c) if c in " ." else ord(c) - ord("a") + 2 for c in text])
    counted = None if counts is None else torch.tensor([float(c) for c in counts])
    return TrainingDocument(ids=ids, counts=counted, source="letters")


def packer(*texts, length=8, bos=BOS, eos=EOS, short_length=None, rounds=None):
    documents = [text if isinstance(text, TrainingDocument) else document(text) for text in texts]
    return Packer(ListStream(documents, rounds), bos=bos, eos=eos, length=length, short_length=short_length)


def show(ids):
    """`<` BOS, `>` EOS, letters, `-` for what is not counted."""
    return "".join({BOS: "<", EOS: ">", UNCOUNTED: "-"}.get(i) or chr(ord("a") + i - 2) for i in ids.tolist())


def test_documents_are_cut_joined_and_bookended():
    packed = packer("abcdefghi", "jk", "lmnopqr")
    rows = [(show(s.ids[0]), show(s.targets[0]), s.num_pieces) for s in (next(packed) for _ in range(4))]
    assert rows == [
        ("<abcdef>", "abcdef--", 1),  # EOS closes a segment, but the document goes on: nothing to learn
        ("<ghi><j>", "ghi>-j--", 2),
        ("<k><lmn>", "k>-lmn--", 2),
        ("<opqr>>>", "opqr>---", 1),  # two are left, too few for another piece
    ]


def test_positions_run_from_start_to_end():
    segment = next(packer("abc"))
    assert segment.positions.tolist() == [list(range(8))]


def test_ends_that_a_document_brings_are_not_doubled():
    own = TrainingDocument(ids=torch.tensor([BOS, 2, 3, 4, EOS]), source="chat")
    assert show(next(packer(own)).ids[0]) == "<abc>>>>"[:5] + "<a>"


@pytest.mark.parametrize(
    ("bos", "eos", "ids", "targets"),
    [
        (None, EOS, "abc>abc>", "bc>-bc>-"),
        (BOS, None, "<abc<abc", "abc-abc-"),
        (None, None, "abcabcab", "bc-bc-b-"),
    ],
)
def test_what_a_tokenizer_lacks_is_left_out(bos, eos, ids, targets):
    segment = next(packer("abc", bos=bos, eos=eos))
    assert (show(segment.ids[0]), show(segment.targets[0])) == (ids, targets)


def test_only_what_counts_is_a_target():
    segment = next(packer(document("abcd", counts="0110"), document("z")))
    assert show(segment.ids[0]) == "<abcd>>>"
    assert show(segment.targets[0]) == "-bc-----"
    assert segment.weights is None
    assert segment.num_counted == 2


def test_weights_stand_at_their_targets():
    segment = next(packer(document("abcd", counts="0250")))
    assert segment.weights.tolist() == [[0, 2, 5, 0, 0, 0, 0, 0]]
    batch = collate([segment])
    assert torch.equal(batch["loss_weights"], segment.weights)


def test_a_document_is_not_changed():
    one = document("abcd", counts="1111")
    next(packer(one, bos=None, eos=None))
    assert one.counts.tolist() == [1, 1, 1, 1]


def test_every_token_is_read_once():
    documents = make_documents()
    packed = Packer(ListStream(documents, 1), bos=BOS, eos=EOS, length=32)
    read = []
    with pytest.raises(DataError, match="ended after 6 documents"):
        while True:
            read += [i for i in next(packed).ids[0].tolist() if i > EOS]
    told = torch.cat([d.ids for d in documents]).tolist()
    assert read == told[: len(read)]
    assert len(told) - len(read) < 32


def test_mixed_windows_keep_short_documents_apart():
    packed = packer("abcdefghijklmn", "op", "qr", "stu", length=16, short_length=8)
    segments = [next(packed) for _ in range(3)]  # the long one comes round again before the rows are full
    assert [s.is_short for s in segments] == [False, False, True]
    found = {s.is_short: s for s in segments}
    assert show(found[False].ids[0]) == "<abcdefghijklmn>"
    assert found[False].positions.tolist() == [list(range(16))]
    assert [show(row) for row in found[True].ids] == ["<op><qr>", "<stu><o>"]
    assert found[True].positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1, 2]]


@pytest.mark.parametrize("short_length", [None, 24])
def test_going_on_from_any_segment(short_length):
    def make():
        return Packer(ListStream(make_documents()), bos=BOS, eos=EOS, length=48, short_length=short_length)

    whole, states = make(), []
    segments = []
    for _ in range(20):
        states.append(json.loads(json.dumps(whole.state_dict())))
        segments.append(next(whole))
    assert {s.is_short for s in segments} == ({False} if short_length is None else {True, False})
    for index, state in enumerate(states):
        again = make()
        again.load_state_dict(state)
        assert again.state_dict() == state
        for expected in segments[index : index + 3]:
            segment = next(again)
            assert torch.equal(segment.ids, expected.ids)
            assert torch.equal(segment.targets, expected.targets)
            assert torch.equal(segment.positions, expected.positions)


def test_a_state_holds_no_text():
    packed = Packer(ListStream(make_documents((5000,))), bos=BOS, eos=EOS, length=512)
    next(packed)
    assert len(json.dumps(packed.state_dict())) < 300


@pytest.mark.parametrize("text", ["abc", "abcdefghijkm"])
def test_going_on_with_another_text_is_refused(text):
    packed = packer("abcdefghijkl")
    next(packed)
    other = packer(text)
    with pytest.raises(FinetuneError, match="not the one that this stage began with"):
        other.load_state_dict(packed.state_dict())


def test_documents_must_be_as_long_as_a_segment():
    packer("abcdef", "g").require_long_documents()
    packer("abcdefgh", "g", bos=None, eos=None).require_long_documents()
    for documents, ends in ((("abcde", "f"), {}), (("abcdefg",), {"bos": None, "eos": None})):
        with pytest.raises(DataError, match=r"segments of 8 tokens, but no document is as long: the longest"):
            packer(*documents, **ends).require_long_documents()


def test_a_text_of_which_nothing_counts_is_refused():
    with pytest.raises(DataError, match="None of 1000 segments"):
        next(packer(document("abc", counts="000")))


@pytest.mark.parametrize(("num_processes", "per_device"), [(1, 1), (1, 4), (2, 2), (4, 1)])
def test_a_step_holds_the_same_segments_however_it_is_split(num_processes, per_device):
    """Four segments a step."""
    steps = [set(), set()]
    for index in range(num_processes):
        packed = Packer(ListStream(make_documents()), bos=BOS, eos=EOS, length=32)
        batches = iter(
            Batches(
                packed,
                per_device=per_device,
                process_index=index,
                num_processes=num_processes,
                collate=collate,
            )
        )
        for step in steps:
            for _ in range(4 // (num_processes * per_device)):
                step |= {show(row) for row in next(batches)["input_ids"]}
    plain = Packer(ListStream(make_documents()), bos=BOS, eos=EOS, length=32)
    expected = [{show(next(plain).ids[0]) for _ in range(4)} for _ in range(2)]
    assert steps == expected
