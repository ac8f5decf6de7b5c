import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.evaluate.intervals import perplexity_interval, wilson
from ropewalk.evaluate.nll import NllSum


@pytest.mark.parametrize(
    ("found", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), Table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_the_published_intervals(found: int, n: int, low: float, high: float) -> None:
    assert wilson(found, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_within_0_and_1(trial: tuple[int, int]) -> None:
    found, n = trial
    low, high = wilson(found, n)

    assert 0 <= low <= found / n <= high <= 1
    assert low < high


def sums(*values: tuple[float, int]) -> list[NllSum]:
    return [NllSum(nll_sum_nats=nats, num_tokens=tokens) for nats, tokens in values]


def test_two_documents_give_no_interval() -> None:
    assert perplexity_interval(sums((10, 5), (20, 5)), seed=0) == (None, None)


def test_equal_documents_give_a_point() -> None:
    low, high = perplexity_interval(sums(*[(10, 5)] * 4), seed=0)

    assert low == pytest.approx(math.exp(2))
    assert high == pytest.approx(math.exp(2))


def test_the_seed_decides() -> None:
    documents = sums(*((n**1.7, 5) for n in range(1, 11)))

    assert perplexity_interval(documents, seed=1) == perplexity_interval(documents, seed=1)
    assert perplexity_interval(documents, seed=1) != perplexity_interval(documents, seed=2)


def test_documents_weigh_by_their_tokens() -> None:
    low, high = perplexity_interval(sums((2_000_000.0, 1_000_000), (1.0, 1), (3.0, 1), (2.5, 1)), seed=0)

    assert low is not None
    assert high is not None
    # Nearly every draw holds the long document at least once, and then is that document's.
    assert np.quantile([low, high], 0.5) > math.exp(1)
    assert low <= math.exp(2) <= high


def test_it_covers_the_truth_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.evaluate.intervals.NUM_RESAMPLES", 1000)
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        nats = random.normal(200, 40, size=30)
        low, high = perplexity_interval(sums(*((float(n), 100) for n in nats)), seed=trial)
        assert low is not None
        assert high is not None
        covered += low <= math.exp(2) <= high

    assert 0.87 <= covered / 200 <= 0.99
