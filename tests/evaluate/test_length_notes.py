"""A record has a note if its length is above the length that the factors, or the model, are for."""

from types import SimpleNamespace

import pytest

from ropewalk.evaluate.length_notes import length_note, reach_of
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.rope.schemes import scheme_factors

GEOMETRY = RopeGeometry(head_dim=4, rotary_dim=4, rope_theta=100.0, original_length=64, num_layers=1)
TARGET = 512


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("yarn", 512),
        ("yarn:factor=2", 128),
        ("yarn:factor=2.5,beta_fast=16", 160),
        ("yarn:factor=99", 512),
        ("none", 64),
        ("dynamic-ntk:factor=2", 512),
    ],
)
def test_closed_form_schemes_are_for_their_factor_times_the_window(scheme, expected):
    assert reach_of(scheme_factors(scheme, GEOMETRY, TARGET)) == expected


@pytest.mark.parametrize(
    "provenance",
    [
        Provenance(strategy="gradient", base="native"),
        Provenance(strategy="yarn:factor=2", base="as-is"),
        Provenance(strategy="yarn:unknown=2", base="native"),
        Provenance(),
    ],
)
def test_other_factors_are_for_their_target_length(provenance):
    assert reach_of(scheme_factors("pi", GEOMETRY, TARGET).replace(provenance=provenance)) == TARGET


def loaded(own=None, own_problem=None):
    return SimpleNamespace(description=SimpleNamespace(own=own, own_problem=own_problem, geometry=GEOMETRY))


def test_a_note_names_the_length_that_is_exceeded():
    factors = scheme_factors("yarn", GEOMETRY, TARGET)
    assert length_note(loaded(), factors, TARGET) is None
    assert str(TARGET) in length_note(loaded(), factors, TARGET + 1)
    assert length_note(loaded(), None, 64) is None
    assert "64" in length_note(loaded(), None, 65)
    assert str(TARGET) in length_note(loaded(own=factors), None, TARGET + 1)
    assert length_note(loaded(own_problem="unknown scaling"), None, 10**6) is None
