"""The baselines of searched factors, and sentences that say who is ahead, or that it is undecided."""

import math

import numpy as np
import pytest

from ropewalk.errors import RopewalkError
from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.report import comparison
from ropewalk.report.comparison import (
    CLOSED_FORMS,
    closed_forms,
    comparison_sentence,
    constant,
    factor_curves,
    perplexity_curves,
    scheme_at_lengths,
    sliding_window_remark,
)
from ropewalk.rope.schemes import SCHEME_NAMES, scheme_factors

GEOMETRY = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=625.0, original_length=256, num_layers=4)


def record(factors, value, length=2048, **more):
    given = {"metric": "perplexity", "n": 8, "low": value - 1, "high": value + 1, "seed": 0, "seconds": 1.0}
    return EvalRecord(**{**given, "factors": factors, "value": value, "length": length, "model": "m", **more})


def test_every_scheme_with_plain_factors_is_a_baseline():
    assert set(SCHEME_NAMES) - {"near-far"} < set(CLOSED_FORMS)
    assert set(closed_forms(GEOMETRY, 2048)) == set(CLOSED_FORMS)


def test_near_far_factors_are_for_lengths_above_the_window():
    factors = scheme_factors("near-far", GEOMETRY, 2048)
    for at in (scheme_at_lengths("near-far", GEOMETRY, 2048), constant(factors)):
        assert at(GEOMETRY.original_length) is None
        assert at(GEOMETRY.original_length + 1) == at(2048) == factors


@pytest.mark.parametrize(
    ("text", "own"), [("near-far:window=300", None), ("near-far", scheme_factors("pi", GEOMETRY, 512))]
)
def test_a_scheme_that_can_not_be_computed_is_refused_before_the_first_measurement(text, own):
    with pytest.raises(RopewalkError, match="window"):
        scheme_at_lengths(text, GEOMETRY, 2048, own)


def test_a_scheme_keeps_the_ratio_of_the_longest_length_and_dynamic_ntk_does_not():
    yarn, dynamic = (scheme_at_lengths(name, GEOMETRY, 2048) for name in ("yarn", "dynamic-ntk"))
    assert yarn(256).rescale_factors == yarn(2048).rescale_factors
    assert set(dynamic(256).rescale_factors[0]) == {1.0}
    assert dynamic(2048).rescale_factors == scheme_factors("ntk", GEOMETRY, 2048).rescale_factors


def test_as_is_multiplies_the_base_factors():
    own = scheme_factors("pi", GEOMETRY, 512)
    total = scheme_at_lengths("pi", GEOMETRY, 2048, own)(2048)
    np.testing.assert_allclose(total.array(), 8.0)
    assert total.geometry == GEOMETRY


def test_turns_are_counted_under_the_base_factors():
    own = scheme_factors("pi", GEOMETRY, 512)
    on_top = scheme_at_lengths("yarn", GEOMETRY, 2048, own)(2048).array()[0] / own.array()[0]
    wanted = scheme_factors("yarn", own.as_window(), 2048).array()[0]
    np.testing.assert_allclose(on_top, wanted)
    # Under the base factors pairs make as many turns in 512 tokens as before in 256, so the ramp is the same.
    np.testing.assert_allclose(on_top, scheme_factors("yarn", GEOMETRY, 1024).array()[0], rtol=1e-6)


def measured(factors, *nats, num_tokens=100, length=2048, **more):
    """A perplexity of documents with these nats."""
    sums = tuple(NllSum(nll_sum_nats=float(value), num_tokens=num_tokens) for value in nats)
    return record(
        factors, math.exp(sum(nats) / len(nats) / num_tokens), length, n=len(nats), by_document=sums, **more
    )


YARN = measured("yarn", 200, 230, 260)
PI = measured("pi", 400, 430, 460)
AHEAD = measured("searched", 190, 221, 249)  # of yarn, by 10, 9 and 11 nats


def test_searched_factors_beat_what_they_are_ahead_of_on_every_document():
    said = comparison_sentence([YARN, PI, AHEAD], length=2048, documents="held-out")
    assert said.startswith("Decided")
    assert "NOT" not in said
    for part in ("3 held-out documents", "2048 tokens", "yarn 9.974", "-9.5% (-11.7% to -7.2%)"):
        assert part in said


def test_a_lower_perplexity_alone_beats_nothing():
    ours = measured("searched", 150, 235, 262)  # the mean is far lower, by one document alone
    assert ours.value < 0.9 * YARN.value
    said = comparison_sentence([YARN, PI, ours], length=2048, documents="held-out")
    assert said.startswith("Undecided against yarn:")
    assert "yarn 9.974" in said


def test_a_scheme_that_is_surely_lower_is_named_though_others_are_beaten():
    yarn = measured("yarn", 180, 211, 239)
    said = comparison_sentence([AHEAD, yarn, PI], length=2048, documents="held-out")
    assert said.startswith("Decided")
    assert "NOT" in said
    assert "yarn 8.166" in said


def test_one_undecided_scheme_is_enough_not_to_beat_every_one():
    ntk = measured("ntk", 300, 150, 600)  # far above in the mean
    assert ntk.value > 2 * AHEAD.value
    said = comparison_sentence([YARN, ntk, AHEAD], length=2048, documents="held-out")
    assert said.startswith("Undecided against ntk")


@pytest.mark.parametrize(
    "records",
    [
        [measured("yarn", 200, 230), measured("searched", 100, 110)],
        [record("yarn", 10.0), record("searched", 5.0)],  # of an earlier version
    ],
)
def test_without_an_interval_nothing_is_beaten(records):
    said = comparison_sentence(records, length=2048, documents="held-out")
    assert said.startswith("Undecided")
    assert "no interval" in said


def test_on_the_documents_that_were_searched_on_nothing_is_beaten():
    said = comparison_sentence([YARN, PI, AHEAD], length=2048, documents="search")
    assert "beat" not in said
    assert "fitted" in said


def test_records_of_other_documents_are_not_compared():
    other = measured("searched", 190, 221, 249, data_sha256="of other documents")
    assert YARN.difference(other) is None
    assert YARN.difference(measured("searched", 190, 221, 249, length=1024)) is None
    assert comparison.differences_to([YARN, other], "yarn") == []


@pytest.mark.parametrize(("sliding", "said"), [((150, 180, 210), "decided"), ((150, 180, 270), "undecided")])
def test_the_sliding_window_is_compared(sliding, said):
    slid = measured("sliding window", *sliding, mode="sliding", window=256, stride=64)
    remark = sliding_window_remark([AHEAD, slid], length=2048)
    assert f": {said}" in remark
    assert all(part in remark for part in ("256", "64"))


def test_the_sentence_is_about_one_length_and_perplexity_only():
    records = [
        YARN, AHEAD, measured("yarn", 1, 2, 3, length=256), measured("searched", 50, 60, 70, length=256),
        record("yarn", 0.5, metric="passkey"),
    ]  # fmt: skip
    assert comparison_sentence(records, length=2048, documents="held-out").startswith("Decided")


def test_curves_are_sorted_and_have_an_interval_only_where_it_is_whole():
    records = [
        record("searched", 9.0), record("searched", 8.0, length=256),
        record("yarn", 9.0, low=None, high=None), record("yarn", 8.0, length=256),
        record("none", 40.0), record("untouched", 40.0), record("pi", 0.5, metric="passkey"),
    ]  # fmt: skip
    searched, yarn, untouched = perplexity_curves(records)
    assert (list(searched.x), list(searched.y)) == ([256, 2048], [8.0, 9.0])
    assert list(searched.low) == [7.0, 8.0]
    assert not yarn.low
    assert untouched.label == "untouched"


def test_factors_per_layer_have_one_curve_per_layer():
    factors = scheme_factors("yarn", GEOMETRY, 2048)
    rows = (factors.rescale_factors[0],) * 3 + ((8.0,) * 32,)
    curves = factor_curves({"yarn": factors, "mine": factors.replace(rescale_factors=rows)})
    assert [curve.label for curve in curves] == ["yarn", *(f"mine, layer {index}" for index in range(4))]


def test_the_first_pair_without_a_full_turn():
    first = GEOMETRY.first_unfinished_pair
    assert GEOMETRY.turns()[first - 1] >= 1 > GEOMETRY.turns()[first]


def test_gaps_are_taken_on_every_set_and_against_one_closed_form(monkeypatch):
    asked = []

    def measure(loaded, documents, lengths, *, factors):
        asked.append((documents, list(factors)))
        return [measured("mrrope-pro", 210, 220, 230), measured("searched", 200, 209, 221)]

    monkeypatch.setattr(comparison, "measure_perplexity", measure)
    known = [
        record(label, value, documents="report", n=5)
        for label, value in (("yarn", 13.0), ("mrrope-pro", 12.0), ("untouched", 1.0), ("searched", 12.6))
    ]
    texts = {"search": "s", "stop": "t", "report": "r"}
    factors = dict.fromkeys((*CLOSED_FORMS, "searched"))
    gaps, records = comparison.measure_gaps(None, texts, factors, known=known, length=2048)
    assert asked == [("s", ["mrrope-pro", "searched"]), ("t", ["mrrope-pro", "searched"])]
    assert [(g.documents, g.n, g.scheme) for g in gaps] == [
        ("search", 3, "mrrope-pro"), ("stop", 3, "mrrope-pro"), ("report", 5, "mrrope-pro"),
    ]  # fmt: skip
    assert (gaps[2].searched, gaps[2].closed_form) == (12.6, 12.0)
    assert gaps[0].nats == pytest.approx(-0.1)
    assert gaps[0].as_json()["decision"] == "decided"
    assert gaps[2].nats == pytest.approx(np.log(12.6 / 12.0))
    assert gaps[2].as_json()["decision"] == "undecided", "these records have no sums of each document"
    assert [r.documents for r in records] == ["search", "search", "stop", "stop"]


@pytest.mark.parametrize("missing", ["searched", "yarn"])
def test_without_searched_factors_or_closed_forms_there_are_no_gaps(missing):
    known = [record(label, 9.0, documents="report") for label in ("yarn", "searched") if label != missing]
    assert comparison.measure_gaps(None, {"search": "s"}, {}, known=known, length=2048) == ([], [])
