"""Intervals have the coverage that they state, and differences are paired by document."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import EvaluationError
from ropewalk.evaluate.intervals import mean_interval, paired_difference, percent, perplexity_interval, wilson
from ropewalk.evaluate.nll import NllSum

NUM_SETS = 3000


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


# ---------------------------------------------------------------- coverage


def coverage(num_documents: int, interval, *, lengths: tuple[int, int] = (1000, 1000)) -> float:
    """How often an interval holds the mean of all documents, of which a few are drawn.

    Documents differ by far more than tokens do: their means have a standard deviation of half a nat.
    """
    random = np.random.default_rng(0)
    held = 0
    for _ in range(NUM_SETS):
        tokens = random.integers(lengths[0], lengths[1] + 1, size=num_documents)
        nats = tokens * random.normal(2.5, 0.5, size=num_documents)
        low, high = interval(nats.tolist(), tokens.tolist())
        held += low <= 2.5 <= high
    return held / NUM_SETS


@pytest.mark.parametrize("num_documents", [3, 5, 10])
def test_intervals_over_few_documents_have_their_coverage(num_documents: int) -> None:
    assert 0.94 <= coverage(num_documents, mean_interval) <= 0.96


@pytest.mark.parametrize("num_documents", [5, 10])
def test_so_do_those_over_documents_of_different_lengths(num_documents: int) -> None:
    assert 0.93 <= coverage(num_documents, mean_interval, lengths=(500, 1500)) <= 0.96


@pytest.mark.parametrize(("num_documents", "at_most"), [(3, 0.80), (5, 0.87), (10, 0.93)])
def test_a_percentile_bootstrap_has_less_coverage(num_documents: int, at_most: float) -> None:
    drawn = np.random.default_rng(1).integers(num_documents, size=(500, num_documents))

    def bootstrap(nats: list[float], tokens: list[int]) -> tuple[float, float]:
        means = np.array(nats)[drawn].sum(axis=1) / np.array(tokens)[drawn].sum(axis=1)
        return tuple(np.quantile(means, [0.025, 0.975]))

    assert coverage(num_documents, bootstrap) < at_most


# ---------------------------------------------------------------- one set of documents


def test_a_perplexitys_interval_is_students_on_the_documents_means() -> None:
    low, high = perplexity_interval(sums((15.0, 10), (20.0, 10), (25.0, 10)))
    # Means 1.5, 2.0 and 2.5: standard deviation 0.5; t(0.975, 2) = 4.302653.
    half = 4.302653 * 0.5 / math.sqrt(3)
    assert (math.log(low), math.log(high)) == pytest.approx((2 - half, 2 + half), rel=1e-6)


def test_documents_weigh_by_their_tokens_as_the_perplexity_itself() -> None:
    documents = sums((100.0, 100), (300.0, 100), (1600.0, 800))
    low, high = perplexity_interval(documents)
    # Of the ratio 2000 / 1000 the residuals are -100, 100 and 0.
    half = 4.302653 * math.sqrt(3 / 2 * 20000) / 1000
    assert (math.log(low), math.log(high)) == pytest.approx((2 - half, 2 + half), rel=1e-6)


def test_two_documents_give_no_interval() -> None:
    assert perplexity_interval(sums((10, 5), (20, 5))) == (None, None)


def test_equal_documents_give_a_point() -> None:
    assert perplexity_interval(sums(*[(10, 5)] * 4)) == pytest.approx((math.exp(2), math.exp(2)))


def test_a_bound_beyond_a_float_is_infinite() -> None:
    low, high = perplexity_interval(sums((10.0, 5), (20.0, 5), (9000.0, 5)))
    assert low < high == math.inf


# ---------------------------------------------------------------- differences


def same_length(*nats: float, num_tokens: int = 100) -> list[NllSum]:
    return sums(*((value, num_tokens) for value in nats))


def test_documents_are_paired_so_that_hard_ones_do_not_widen_the_interval() -> None:
    theirs = same_length(100.0, 300.0, 500.0, 900.0)
    found = paired_difference(same_length(110.0, 310.0, 510.0, 910.0), theirs)
    assert (found.nats, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.is_lower is False
    one = paired_difference(same_length(100.0, 300.0, 500.0, 940.0), theirs)
    assert one.nats == pytest.approx(0.1)
    assert one.low < 0 < one.high
    assert (one.is_lower, one.decision) == (None, "undecided")


def test_a_difference_is_decided_where_its_whole_interval_is_on_one_side() -> None:
    theirs = same_length(100.0, 300.0, 500.0)
    ahead = paired_difference(same_length(98.0, 297.0, 499.0), theirs)
    assert (ahead.is_lower, ahead.decision) == (None, "undecided")
    ahead = paired_difference(same_length(98.0, 297.5, 498.0), theirs)
    assert (ahead.is_lower, ahead.decision) == (True, "decided")
    behind = paired_difference(theirs, same_length(98.0, 297.5, 498.0))
    assert (behind.is_lower, behind.decision) == (False, "decided")


def test_two_documents_decide_nothing() -> None:
    found = paired_difference(same_length(1.0, 2.0), same_length(50.0, 60.0))
    assert (found.low, found.high, found.is_lower) == (None, None, None)
    assert "no interval" in str(found)


def test_rounding_decides_nothing() -> None:
    theirs = same_length(100.0, 300.0, 500.0)
    ours = same_length(100.0 - 2e-6, 300.0 - 2e-6, 500.0 - 2e-6)
    assert paired_difference(ours, theirs).is_lower is None
    assert paired_difference(theirs, ours).is_lower is None


@pytest.mark.parametrize("theirs", [same_length(1.0, 2.0), same_length(1.0, 2.0, 3.0, num_tokens=99)])
def test_other_documents_are_not_compared(theirs: list[NllSum]) -> None:
    with pytest.raises(EvaluationError, match="documents"):
        paired_difference(same_length(1.0, 2.0, 3.0), theirs)


def test_differences_are_shown_in_percent_of_the_perplexity() -> None:
    assert [percent(math.log(ratio)) for ratio in (0.96, 1.5, 12.34)] == ["-4.0%", "+50.0%", "x12.3"]
    found = paired_difference(same_length(90.0, 90.0, 90.0), same_length(100.0, 100.0, 100.0))
    assert str(found) == "-9.5% (-9.5% to -9.5%)"
