import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ropewalk.errors import DataError, RopewalkError, SettingError
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.mixture import Mixture, MixtureSettings
from ropewalk.finetune.data.sources import SourceSettings

LENGTH = 300  # of a segment; a passkey prompt takes 253 tokens with a token a byte


def seen(document: TrainingDocument) -> tuple[Any, ...]:
    counts = None if document.counts is None else tuple(document.counts.tolist())
    return tuple(document.ids.tolist()), counts, document.source, document.whole


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of three kinds: 8 long ones, 300 short ones (more than a block), 3 chats."""
    folder = tmp_path_factory.mktemp("corpus")
    long = [f"long {number}: " + "strand by strand " * (15 + 9 * number) for number in range(8)]
    short = [f"short {number} " * (1 + number % 5) for number in range(300)]
    for name, texts in (("long", long), ("short", short)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def mixture(corpus: Path, tokenizer: Any, length: int = LENGTH, **chosen: Any) -> Mixture:
    sources = chosen.pop("sources", {"long": {"weight": 3.0}, "short": {"weight": 1.0}})
    named = [
        SourceSettings(**{"name": name, "text": str(corpus / f"{name}.jsonl"), **more})
        for name, more in sources.items()
    ]
    return Mixture(MixtureSettings(sources=tuple(named), **chosen), tokenizer, length)


# ---------------------------------------------------------------- order and shares


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_seed_gives_the_stream(corpus: Path, tiny_tokenizer: Any, share: float) -> None:
    def start(seed: int) -> list[Any]:
        stream = mixture(corpus, tiny_tokenizer, retrieval_share=share, seed=seed)
        return [seen(next(stream)) for _ in range(40)]

    assert start(1) == start(1)
    assert start(1) != start(2)


@settings(max_examples=30, deadline=None)
@given(
    weights=st.tuples(st.floats(0.05, 5), st.floats(0.05, 5)),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    num_documents=st.integers(1, 150),
)
def test_shares_of_tokens_hold_at_every_moment(
    corpus: Path, tiny_tokenizer: Any, weights: tuple[float, float], share: float, num_documents: int
) -> None:
    long, short = weights
    stream = mixture(
        corpus,
        tiny_tokenizer,
        sources={"long": {"weight": long}, "short": {"weight": short}},
        retrieval_share=share,
    )
    given_tokens = dict.fromkeys(("long", "short", "retrieval"), 0)
    for _ in range(num_documents):
        document = next(stream)
        given_tokens[document.source.partition(":")[0]] += len(document.ids)
    total = sum(given_tokens.values())
    expected = {
        "long": (1 - share) * long / (long + short),
        "short": (1 - share) * short / (long + short),
        "retrieval": share,
    }

    assert {name: entry["tokens"] for name, entry in stream.progress().items()} == given_tokens
    for name, part in expected.items():
        # Within a segment of generated text and one of each source.
        assert abs(given_tokens[name] - part * total) <= 2 * LENGTH


def test_each_round_gives_every_document_once_in_another_order(corpus: Path, tiny_tokenizer: Any) -> None:
    stream = mixture(corpus, tiny_tokenizer, length=2000, sources={"short": {}}, retrieval_share=0.5)
    texts = [d.ids.tolist() for d in (next(stream) for _ in range(900)) if not d.whole]
    rounds = [[tiny_tokenizer.decode(ids) for ids in texts[start : start + 300]] for start in (0, 300)]

    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(f"short {n} " * (1 + n % 5) for n in range(300))
    assert rounds[0] != rounds[1]
    assert rounds[0] != sorted(rounds[0])


def test_a_long_document_comes_in_pieces_and_only_its_end_lets_eos_count(
    corpus: Path, tiny_tokenizer: Any
) -> None:
    stream = mixture(corpus, tiny_tokenizer, length=102, sources={"long": {}})
    pieces: dict[str, list[TrainingDocument]] = {}
    while stream.progress()["long"]["rounds"] == 0:
        document = next(stream)
        pieces.setdefault(document.source, []).append(document)
    pieces[document.source].pop()  # of the second round

    texts = sorted(tiny_tokenizer.decode(torch.cat([p.ids for p in parts])) for parts in pieces.values())
    assert texts == sorted(f"long {n}: " + "strand by strand " * (15 + 9 * n) for n in range(8))
    for parts in pieces.values():
        assert all(len(part.ids) == 100 for part in parts[:-1])
        assert parts[-1].counts is None
        for part in parts[:-1]:
            assert part.counts is not None
            assert part.counts.tolist() == [1.0] * 99 + [0.0]


def test_without_a_source_passkeys_are_all_there_is(tiny_tokenizer: Any) -> None:
    stream = Mixture(MixtureSettings(retrieval_share=1), tiny_tokenizer, LENGTH)
    documents = [next(stream) for _ in range(6)]

    assert all(document.source.startswith("retrieval: passkey") for document in documents)
    assert stream.describe()["sources"] == []


def test_a_segment_is_full_with_its_bos_and_eos(corpus: Path, tiny_tokenizer: Any) -> None:
    class WithoutEnds:
        bos_token_id = eos_token_id = None
        backend_tokenizer = tiny_tokenizer.backend_tokenizer
        decode = tiny_tokenizer.decode

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return tiny_tokenizer(*args, **kwargs)

    for tokenizer, expected in ((tiny_tokenizer, LENGTH - 2), (WithoutEnds(), LENGTH)):
        stream = mixture(corpus, tokenizer, sources={"long": {}}, retrieval_share=0.3)
        lengths = [len(next(stream).ids) for _ in range(40)]
        assert max(lengths) == expected
        assert lengths.count(expected) > 10


# ---------------------------------------------------------------- resuming


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 60), further=st.integers(0, 40), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_resumed_equals_uninterrupted(
    corpus: Path, tiny_tokenizer: Any, cut: int, further: int, share: float
) -> None:
    def make() -> Mixture:
        return mixture(corpus, tiny_tokenizer, length=256 + 64, retrieval_share=share, seed=3)

    whole = make()
    documents, states = [], []
    for _ in range(cut + 30):
        states.append(json.dumps(whole.state_dict()))
        documents.append(seen(next(whole)))

    fresh = make()
    fresh.load_state_dict(json.loads(states[cut]))
    assert [seen(next(fresh)) for _ in range(30)] == documents[cut:]

    # One that stands elsewhere, ahead or behind, goes there as well; noting a place changes nothing.
    for _ in range(further):
        next(fresh)
    fresh.load_state_dict(json.loads(states[cut]))
    assert json.dumps(fresh.state_dict()) == states[cut]
    assert [seen(next(fresh)) for _ in range(30)] == documents[cut:]


def test_a_place_in_a_later_round_and_block_is_found_again(corpus: Path, tiny_tokenizer: Any) -> None:
    stream = mixture(corpus, tiny_tokenizer, sources={"short": {}}, retrieval_share=0.1)
    while stream.progress()["short"]["rounds"] < 2 or stream.state_dict()["places"]["short"][1] == 0:
        next(stream)
    state = json.loads(json.dumps(stream.state_dict()))
    fresh = mixture(corpus, tiny_tokenizer, sources={"short": {}}, retrieval_share=0.1)
    fresh.load_state_dict(state)

    assert state["places"]["short"][:2] == [2, 1]
    assert [seen(next(fresh)) for _ in range(100)] == [seen(next(stream)) for _ in range(100)]

    # Back from a later block to an earlier one of the same round.
    beginning = mixture(corpus, tiny_tokenizer, sources={"short": {}}, retrieval_share=0.1)
    fresh.load_state_dict(state)
    next(fresh)
    fresh.load_state_dict(beginning.state_dict())
    assert [seen(next(fresh)) for _ in range(20)] == [seen(next(beginning)) for _ in range(20)]


def test_going_ahead_reads_no_block_twice(
    corpus: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = mixture(corpus, tiny_tokenizer, sources={"short": {}}, retrieval_share=0.1)
    states = []
    for _ in range(60):
        states.append(stream.state_dict())
        next(stream)
    fresh = mixture(corpus, tiny_tokenizer, sources={"short": {}}, retrieval_share=0.1)
    next(fresh)
    monkeypatch.setattr("ropewalk.finetune.data.sources.read_documents", None)

    for state in states:
        fresh.load_state_dict(state)
        next(fresh)


@pytest.mark.parametrize("change", [{"seed": 1}, {"length": 400}, {"retrieval_share": 0.2}])
def test_a_place_of_another_mixture_is_refused(
    corpus: Path, tiny_tokenizer: Any, change: dict[str, Any]
) -> None:
    state = mixture(corpus, tiny_tokenizer).state_dict()

    with pytest.raises(SettingError, match="other sources"):
        mixture(corpus, tiny_tokenizer, **change).load_state_dict(state)


def test_a_place_in_other_text_is_refused(corpus: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    """A row's content; and of files, which are not read for it, names and sizes."""
    (tmp_path / "long").mkdir()
    for number in range(3):
        (tmp_path / "long" / f"{number}.txt").write_text(f"text {number} " * 80)
    rows = (corpus / "short.jsonl").read_text()
    (tmp_path / "short.jsonl").write_text(rows)
    sources = {"long": {"text": str(tmp_path / "long")}, "short": {}}

    def make() -> Mixture:
        return mixture(tmp_path, tiny_tokenizer, sources=sources)

    state = make().state_dict()
    (tmp_path / "short.jsonl").write_text(rows.replace("short 7 ", "tall 77 "))
    with pytest.raises(DataError, match="short holds other documents than when this place") as caught:
        make().load_state_dict(state)
    assert "\n" not in str(caught.value)

    (tmp_path / "short.jsonl").write_text(rows)
    make().load_state_dict(state)
    file = tmp_path / "long" / "2.txt"
    file.write_text(file.read_text() + ".")
    with pytest.raises(DataError, match="long holds other documents"):
        make().load_state_dict(state)
    file.unlink()
    with pytest.raises(DataError, match="long holds other documents"):
        make().load_state_dict(state)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_longest_document_is_known(corpus: Path, tiny_tokenizer: Any, share: float) -> None:
    stream = mixture(corpus, tiny_tokenizer, retrieval_share=share)
    assert stream.longest == LENGTH - 2
    assert max(len(next(stream).ids) for _ in range(60)) == stream.longest
    only_short = mixture(corpus, tiny_tokenizer, sources={"short": {}}, retrieval_share=0.25)
    assert max(len(next(only_short).ids) for _ in range(60)) == only_short.longest == LENGTH - 2


# ---------------------------------------------------------------- budgets


def test_a_spent_source_leaves_the_rest_to_the_others(corpus: Path, tiny_tokenizer: Any) -> None:
    stream = mixture(corpus, tiny_tokenizer, sources={"long": {"tokens": 1000, "weight": 9.0}, "short": {}})
    documents = [next(stream) for _ in range(400)]
    names = [document.source.partition(":")[0] for document in documents]
    of_long = [document for document, name in zip(documents, names, strict=True) if name == "long"]

    assert sum(len(document.ids) for document in of_long) == 1000
    assert of_long[-1].counts is not None  # it was cut
    assert "long" not in names[200:]


def test_a_mixture_ends_when_all_budgets_are_spent(corpus: Path, tiny_tokenizer: Any) -> None:
    stream = mixture(
        corpus,
        tiny_tokenizer,
        sources={"long": {"tokens": 5000}, "short": {"tokens": 3000}},
        retrieval_share=0.2,
    )
    documents = list(stream)

    assert stream.progress()["long"]["tokens"] == 5000
    assert stream.progress()["short"]["tokens"] == 3000
    assert 0.15 < stream.progress()["retrieval"]["tokens"] / 10_000 < 0.25
    assert len(documents) > 40
    with pytest.raises(StopIteration):
        next(stream)


# ---------------------------------------------------------------- the record


def test_it_describes_itself(corpus: Path, tiny_tokenizer: Any) -> None:
    told = mixture(corpus, tiny_tokenizer, retrieval_share=0.2, seed=4).describe()

    assert json.loads(json.dumps(told)) == told
    assert (told["length"], told["retrieval_share"], told["seed"]) == (LENGTH, 0.2, 4)
    assert [source["name"] for source in told["sources"]] == ["long", "short"]
    assert math.isclose(told["sources"][0]["share"], 0.6)
    assert told["sources"][0]["joined"] == "each document by itself"


# ---------------------------------------------------------------- wrong input


def refused(error: type[RopewalkError], corpus: Path, tokenizer: Any, **chosen: Any) -> str:
    with pytest.raises(error) as caught:
        mixture(corpus, tokenizer, **chosen)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_stage_longer_than_any_document(corpus: Path, tiny_tokenizer: Any) -> None:
    longest = len("long 7: ") + 17 * (15 + 9 * 7)
    assert mixture(corpus, tiny_tokenizer, length=longest + 2)
    assert f"the longest has {longest};" in refused(DataError, corpus, tiny_tokenizer, length=longest + 3)
    assert mixture(corpus, tiny_tokenizer, length=longest + 3, retrieval_share=0.1)


def test_no_document_in_a_length_bucket(corpus: Path, tiny_tokenizer: Any) -> None:
    said = refused(DataError, corpus, tiny_tokenizer, sources={"short": {"min_tokens": 5000}, "long": {}})
    assert "short" in said
    assert "no document of 5000 to more tokens" in said
    said = refused(DataError, corpus, tiny_tokenizer, sources={"long": {"max_tokens": 5}})
    assert "its 8 have 6 to more than 5" in said


def test_an_empty_source(corpus: Path, tiny_tokenizer: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    blank = tmp_path / "blank.jsonl"
    blank.write_text('{"text": ""}\n')
    for file in (empty, blank):
        said = refused(DataError, corpus, tiny_tokenizer, sources={"nothing": {"text": str(file)}})
        assert "holds no document" in said
    missing = {"nothing": {"text": str(tmp_path / "missing.txt")}}
    assert "does not exist" in refused(DataError, corpus, tiny_tokenizer, sources=missing)


def test_a_budget_below_one_segment(corpus: Path, tiny_tokenizer: Any) -> None:
    said = refused(SettingError, corpus, tiny_tokenizer, sources={"long": {"tokens": LENGTH - 3}})
    assert "297 tokens" in said
    assert "298 of one segment" in said
    assert mixture(corpus, tiny_tokenizer, sources={"long": {"tokens": LENGTH - 2}})


@pytest.mark.parametrize("text", ["stdlib:search", "stdlib:held-out", "stdlib:held_out"])
def test_text_for_measuring_is_not_trained_on(corpus: Path, tiny_tokenizer: Any, text: str) -> None:
    said = refused(SettingError, corpus, tiny_tokenizer, sources={"lib": {"text": text}})
    assert "never for training" in said


def test_a_segment_too_short_for_retrieval(corpus: Path, tiny_tokenizer: Any) -> None:
    said = refused(SettingError, corpus, tiny_tokenizer, length=200, retrieval_share=0.5)
    assert "takes 252 tokens" in said
    assert "make the stage longer" in refused(SettingError, corpus, tiny_tokenizer, length=3)


@pytest.mark.parametrize(
    ("sources", "more", "said"),
    [
        ([{"name": "a", "text": "x"}] * 2, {}, "called a"),
        ([{"name": "retrieval", "text": "x"}], {}, "another name"),
        ([], {}, "no source"),
        ([{"name": "a", "text": "x", "wieght": 1}], {}, "wieght"),
        ([{"name": "a", "text": "x", "weight": 0}], {}, "weight"),
        ([{"name": "a", "text": "x", "weight": math.inf}], {}, "weight"),
        ([{"name": "a", "text": "x", "tokens": 0}], {}, "tokens"),
        ([{"name": "a", "text": "x", "min_tokens": 5, "max_tokens": 4}], {}, "which is none"),
        ([{"name": "a", "text": "x", "kind": "chat", "join": "topic"}], {}, "not joined"),
        ([{"name": "a", "text": "x", "join": "author"}], {}, "join"),
        ([{"name": "a", "text": "x"}], {"retrieval_share": 1.1}, "retrieval_share"),
        ([{"name": "a", "text": "x"}], {"seed": -1}, "seed"),
    ],
)
def test_settings_that_contradict_themselves(sources: Any, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MixtureSettings.model_validate({"sources": sources, **more})
