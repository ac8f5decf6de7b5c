"""Which of a factor set's entries an export has, and which factors no export can have."""

import pytest

from ropewalk.errors import ExportError, FactorsError
from ropewalk.export import Served
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import scheme_factors

GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=100.0, original_length=64, num_layers=2)
LONG = scheme_factors("yarn", GEOMETRY, 256)
MIDDLE = LONG.replace(target_length=128)
SHORT = scheme_factors("ntk:factor=1.5", GEOMETRY, 64)
THREE = FactorSet.of([SHORT, MIDDLE, LONG])


@pytest.mark.parametrize(
    ("mode", "short", "left_out"), [("pinned", LONG, (SHORT, MIDDLE)), ("switching", SHORT, (MIDDLE,))]
)
def test_the_mode_chooses_the_entries(mode, short, left_out):
    served = Served.of(THREE, mode)
    assert (served.short, served.long, served.left_out) == (short, LONG, left_out)
    assert served.for_length(64) == short
    assert served.for_length(65) == LONG


def test_another_attention_factor_keeps_pinned_factors_the_same():
    pinned = Served.of(THREE, "pinned").with_attention_factor(1.5)
    assert pinned.short is pinned.long
    switching = Served.of(THREE, "switching").with_attention_factor(1.5)
    assert switching.short.attention_factor == switching.long.attention_factor == 1.5
    assert switching.short.rescale_factors == SHORT.rescale_factors


@pytest.mark.parametrize("others", [(), (LONG.replace(target_length=512),)])
def test_an_entry_with_a_near_window_is_refused(others):
    factor_set = FactorSet.of([scheme_factors("near-far", GEOMETRY, 256), *others])
    with pytest.raises(FactorsError, match="near window"):
        Served.of(factor_set, "pinned")


@pytest.mark.parametrize(
    ("entries", "mode", "noun"),
    [
        ([LONG.replace(rescale_factors=LONG.rescale_factors * 2)], "pinned", "layer"),
        ([SHORT], "pinned", "window"),
        ([LONG], "both", "mode"),
    ],
)
def test_factors_that_no_export_can_have_are_refused(entries, mode, noun):
    with pytest.raises(ExportError, match=noun):
        Served.of(FactorSet.of(entries), mode)
