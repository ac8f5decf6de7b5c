"""Figures: that they are drawn from any data, and that labels can be read."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from ropewalk.report.comparison import CLOSED_FORMS, SEARCHED, SLIDING, UNTOUCHED
from ropewalk.report.figures import STYLES, Curve, draw_factors, draw_perplexity, spread, style_of

EVERYTHING = [UNTOUCHED, *CLOSED_FORMS, SLIDING, SEARCHED]


def curves(labels, lengths=(256, 512, 1024, 2048)):
    return [
        Curve(label=label, x=lengths, y=[9 + i * n / 512 for n in lengths]) for i, label in enumerate(labels)
    ]


def test_perplexity_is_drawn_as_a_picture_of_its_size():
    image = imread(io.BytesIO(draw_perplexity(curves(EVERYTHING), original_length=256, title="$a$ _b_ {c}")))
    assert image.shape[:2] == (900, 1500)
    assert image.std() > 0.05


@pytest.mark.parametrize("first_unfinished_pair", [0, 19, 32])
def test_factors_are_drawn_wherever_the_mark_is(first_unfinished_pair):
    lines = [Curve(label=label, x=range(32), y=np.linspace(1, 8, 32).tolist()) for label in EVERYTHING]
    assert draw_factors(lines, first_unfinished_pair=first_unfinished_pair, title="").startswith(b"\x89PNG")


def test_one_curve_of_one_point_is_drawn():
    one = [Curve(label="a file.json", x=[256], y=[9.0], low=[8.0], high=[10.0])]
    assert draw_perplexity(one, original_length=256, title="")


def test_every_label_has_a_look_of_its_own():
    assert set(EVERYTHING) <= set(STYLES)
    looks = [STYLES[label] for label in EVERYTHING if label != "none"]  # `none` is the untouched model
    assert all(a != b for a, b in itertools.combinations(looks, 2))
    assert style_of("mine", 0) != style_of("mine", 1)


@given(st.lists(st.floats(-0.5, 1.5), max_size=14).map(sorted), st.floats(0.01, 0.06))
def test_labels_keep_their_order_and_distance(heights, gap):
    placed = spread(heights, gap)
    assert len(placed) == len(heights)
    assert all(after - before >= gap - 1e-9 for before, after in itertools.pairwise(placed))
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in placed)


def test_labels_that_are_far_apart_stay():
    assert spread([0.1, 0.5, 0.9], 0.05) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
