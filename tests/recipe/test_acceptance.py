import pytest

from ropewalk.evaluate.intervals import paired_difference, wilson
from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.records import EvalRecord
from ropewalk.recipe.acceptance import check_limits
from ropewalk.recipe.schema import Accept, PasskeyLimit


def record(metric, value, low, high, length=2048, **more):
    factors = more.pop("factors", "extended")
    return EvalRecord(
        metric=metric, value=value, length=length, factors=factors, n=20, low=low, high=high, seed=0,
        seconds=1.0, model="tiny", **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "is_held"),
    [(0.0, 0.05, True), (0.0, 0.0501, False), (-0.1, -0.05, True), (None, None, False)],
)
def test_a_rise_is_judged_on_its_upper_end(low, high, is_held):
    (limit,) = check_limits(
        Accept(short_nll_rise=0.05), [record("nll_increase", 0.02, low, high, length=256)]
    )
    assert limit.is_held is is_held
    assert ("NOT" in limit.text) is not is_held


def test_a_rise_over_three_documents_has_a_wide_interval():
    """None of them lost more than is allowed, but three say little of others."""
    before = [NllSum(nll_sum_nats=200.0, num_tokens=100)] * 3
    after = [NllSum(nll_sum_nats=200.0 + lost, num_tokens=100) for lost in (2.0, 3.0, 4.5)]
    found = paired_difference(after, before)
    measured = record("nll_increase", found.nats, found.low, found.high, length=256)
    assert not check_limits(Accept(short_nll_rise=0.05), [measured])[0].is_held
    assert check_limits(Accept(short_nll_rise=0.07), [measured])[0].is_held


@pytest.mark.parametrize(("found", "is_held"), [(20, True), (17, False), (19, False)])
def test_passkeys_are_judged_on_the_lower_end(found, is_held):
    low, high = wilson(found, 20)
    accept = Accept(passkey=(PasskeyLimit(length=2048, at_least=0.8),))
    (limit,) = check_limits(accept, [record("passkey", found / 20, low, high, found=found)])
    assert limit.is_held is is_held, (low, "19 of 20 may well be 76%")


def test_what_was_not_measured_is_not_held():
    accept = Accept(short_nll_rise=0.05, passkey=(PasskeyLimit(length=2048, at_least=0.1),))
    limits = check_limits(
        accept, [record("passkey", 1.0, 1.0, 1.0, length=256), record("passkey", 1, 1, 1, factors="yarn")]
    )
    assert [limit.is_held for limit in limits] == [False, False]


def test_of_several_evaluations_the_last_one_counts():
    early, late = record("nll_increase", 0.0, 0.0, 0.01), record("nll_increase", 1.0, 0.9, 1.1)
    assert not check_limits(Accept(short_nll_rise=0.05), [early, late])[0].is_held
    assert check_limits(Accept(short_nll_rise=0.05), [late, early])[0].is_held


def test_no_limits_no_verdicts():
    assert check_limits(Accept(), []) == []
