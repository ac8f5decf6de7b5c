"""A mixture: shares in expectation, the same segments for a seed, exact positions, budgets, and mistakes."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import DataError, SettingError
from ropewalk.finetune.data.mixture import Mixture
from ropewalk.finetune.data.packing import Packing
from ropewalk.finetune.data.settings import MixtureSettings, SourceSettings

LENGTH = 300  # tokens per segment; a passkey prompt takes 253 tokens with a token per byte


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick, and with more blocks in the same number of segments."""
    monkeypatch.setattr("ropewalk.finetune.data.sources.BLOCK_SEGMENTS", 4)
    monkeypatch.setattr("ropewalk.finetune.data.mixture.TEXTS_AT_ONCE", 8)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows: 8 long ones, and 300 short ones, which are more than a block."""
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


def stream(made: Mixture, tokenizer: Any, short_length: int | None = None) -> Any:
    return made.segments(Packing.of(tokenizer, made.length, short_length))


def seen(segments: Any, count: int | None) -> list[tuple[str, Any]]:
    """Source and tokens."""
    return [(segment["source"], segment["ids"].tolist()) for segment in islice(segments, count)]


# ---------------------------------------------------------------- order and shares


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_seed_decides_the_segments(corpus: Path, tiny_tokenizer: Any, share: float) -> None:
    def first(seed: int) -> list[Any]:
        made = mixture(corpus, tiny_tokenizer, retrieval_share=share, seed=seed)
        return seen(stream(made, tiny_tokenizer), 40)

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_shares_of_the_tokens_hold_in_expectation(corpus: Path, tiny_tokenizer: Any) -> None:
    made = mixture(corpus, tiny_tokenizer, retrieval_share=0.2)
    found = Counter(source for source, _ in seen(stream(made, tiny_tokenizer), 1000))
    for name, expected in {"long": 0.6, "short": 0.2, "retrieval": 0.2}.items():
        assert abs(found[name] / 1000 - expected) < 0.05, found  # three standard deviations


def test_without_a_source_all_segments_are_passkeys(tiny_tokenizer: Any) -> None:
    made = Mixture(MixtureSettings(retrieval_share=1), tiny_tokenizer, LENGTH)
    for source, ids in seen(stream(made, tiny_tokenizer), 70):
        assert source == "retrieval"
        assert "pass key" in tiny_tokenizer.decode(ids[0])


def test_facts_are_hidden_in_text_of_the_sources(corpus: Path, tiny_tokenizer: Any) -> None:
    made = mixture(corpus, tiny_tokenizer, retrieval_share=1)
    texts = [tiny_tokenizer.decode(ids[0]) for _, ids in seen(stream(made, tiny_tokenizer), 40)]
    with_facts = [text for text in texts if "pass key" not in text]
    assert len(with_facts) > 10
    assert any("strand by strand" in text for text in with_facts)


def test_mixed_windows_have_both_kinds(corpus: Path, tiny_tokenizer: Any) -> None:
    segments = islice(stream(mixture(corpus, tiny_tokenizer), tiny_tokenizer, short_length=100), 40)
    assert {segment["ids"].shape for segment in segments} == {(1, 300), (3, 100)}


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    ("cut", "share", "budget"), [(1, 0.0, None), (40, 0.3, None), (150, 0.3, 9000), (70, 1.0, None)]
)
def test_resumed_equals_uninterrupted(
    corpus: Path, tiny_tokenizer: Any, cut: int, share: float, budget: int | None
) -> None:
    def make() -> Any:
        sources = {"long": {"weight": 3.0}, "short": {"tokens": budget}}
        made = mixture(corpus, tiny_tokenizer, sources=sources, retrieval_share=share, seed=3)
        return stream(made, tiny_tokenizer)

    whole = make()
    iterator = iter(whole)
    seen(iterator, cut)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    assert seen(resumed, 40) == seen(iterator, 40)


def test_a_state_has_no_text(corpus: Path, tiny_tokenizer: Any) -> None:
    segments = stream(mixture(corpus, tiny_tokenizer, retrieval_share=0.3), tiny_tokenizer)
    seen(segments, 20)
    assert "strand" not in json.dumps(segments.state_dict())


def test_the_fingerprint_is_of_settings_length_and_text(
    corpus: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    fingerprint = mixture(corpus, tiny_tokenizer).fingerprint
    assert mixture(corpus, tiny_tokenizer).fingerprint == fingerprint
    for change in ({"seed": 1}, {"length": 400}, {"retrieval_share": 0.2}):
        assert mixture(corpus, tiny_tokenizer, **change).fingerprint != fingerprint
    rows = (corpus / "short.jsonl").read_text()
    file = tmp_path / "short.jsonl"
    sources = {"long": {"weight": 3.0}, "short": {"text": str(file)}}
    prints = []
    for text in (rows, rows.replace("short 7 ", "tall 77 ")):
        file.write_text(text)
        prints.append(mixture(corpus, tiny_tokenizer, sources=sources).fingerprint)
    assert prints[0] != prints[1]


# ---------------------------------------------------------------- budgets


def test_a_source_without_budget_left_leaves_the_rest_to_the_others(
    corpus: Path, tiny_tokenizer: Any
) -> None:
    sources = {"long": {"tokens": 10 * LENGTH, "weight": 9.0}, "short": {}}
    found = seen(stream(mixture(corpus, tiny_tokenizer, sources=sources), tiny_tokenizer), 60)
    assert Counter(source for source, _ in found) == {"long": 10, "short": 50}


def test_a_mixture_ends_with_all_budgets(corpus: Path, tiny_tokenizer: Any) -> None:
    made = mixture(
        corpus,
        tiny_tokenizer,
        sources={"long": {"tokens": 50 * LENGTH}, "short": {"tokens": 31 * LENGTH - 1}},
        retrieval_share=0.2,
    )
    found = Counter(source for source, _ in seen(stream(made, tiny_tokenizer), None))
    assert found == {"long": 50, "short": 30, "retrieval": 20}


# ---------------------------------------------------------------- mistakes


def test_no_document_as_long_as_a_segment(corpus: Path, tiny_tokenizer: Any) -> None:
    longest = len("long 7: ") + 17 * (15 + 9 * 7)
    assert mixture(corpus, tiny_tokenizer, length=longest + 2).longest == longest
    with pytest.raises(DataError, match=f"{longest} tokens") as caught:
        mixture(corpus, tiny_tokenizer, length=longest + 3)
    assert "\n" not in str(caught.value)
    assert mixture(corpus, tiny_tokenizer, length=longest + 3, retrieval_share=0.1).longest == longest + 1


def test_a_stage_of_another_length_is_refused(corpus: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(SettingError, match="length"):
        mixture(corpus, tiny_tokenizer).segments(Packing.of(tiny_tokenizer, LENGTH + 1))


def test_a_segment_too_short_for_text(corpus: Path, tiny_tokenizer: Any) -> None:
    with pytest.raises(SettingError, match="segment"):
        mixture(corpus, tiny_tokenizer, length=3)


def test_a_row_that_is_damaged_far_behind_is_one_line(tiny_tokenizer: Any, tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {n} " * 50}) for n in range(500)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, "not JSON"]))
    segments = stream(mixture(tmp_path, tiny_tokenizer, sources={"rows": {}}), tiny_tokenizer)
    with pytest.raises(DataError, match="line 501") as caught:
        seen(segments, 2000)
    assert "\n" not in str(caught.value)
