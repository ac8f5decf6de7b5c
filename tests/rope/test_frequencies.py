import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.frequencies import StackedFactors, angles, cos_sin, far_angles, rescaled_angles

GEOMETRY = RopeGeometry(head_dim=128, rotary_dim=128, rope_theta=10000.0, original_length=4096, num_layers=2)
LAST = 4_194_304


def ramp(**changes):
    row = [1 + 7.77 * i / 63 for i in range(64)]
    return RescaleFactors.single(geometry=GEOMETRY, target_length=32768, rescale_factors=row, **changes)


def exact_angle(position, pair, rescale_factor):
    with mpmath.workdps(50):
        inverse = mpmath.mpf(10000) ** (mpmath.mpf(-2 * pair) / 128)
        return position * inverse / mpmath.mpf(rescale_factor)


@pytest.mark.parametrize("position", [0, 1, 4095, 131072, 1_999_999, LAST])
def test_cos_and_sin_are_exact_to_the_last_position(position):
    factors = ramp()
    cos, sin = cos_sin(factors, torch.tensor([position]))
    with mpmath.workdps(50):
        for pair, rescale_factor in enumerate(factors.rescale_factors[0]):
            angle = exact_angle(position, pair, rescale_factor)
            assert abs(float(cos[0, pair]) - float(mpmath.cos(angle))) < 1e-8
            assert abs(float(sin[0, pair]) - float(mpmath.sin(angle))) < 1e-8


def test_float32_angles_would_not_do():
    inverse = torch.tensor(GEOMETRY.inverse_frequencies(), dtype=torch.float32)
    wrong = LAST * inverse / torch.tensor(ramp().rescale_factors[0], dtype=torch.float32)
    assert (wrong.double() - angles(ramp(), torch.tensor(LAST))).abs().max() > 0.01


@settings(max_examples=50)
@given(position=st.integers(0, LAST), start=st.integers(0, 300), attention_factor=st.floats(0.5, 2))
def test_start_tokens_keep_their_rotation_and_the_attention_factor_scales_both(
    position, start, attention_factor
):
    factors = ramp(num_start_tokens=start, attention_factor=attention_factor)
    expected = ramp() if position >= start else ramp().replace(rescale_factors=((1.0,) * 64,))
    cos, sin = cos_sin(factors, torch.tensor([position]))
    plain_cos, plain_sin = cos_sin(expected, torch.tensor([position]))
    assert torch.equal(cos, plain_cos * attention_factor)
    assert torch.equal(sin, plain_sin * attention_factor)


def test_shapes_follow_the_positions_and_layers_have_their_own_row():
    factors = ramp()
    rows = (factors.rescale_factors[0], (2.0,) * 64)
    per_layer = factors.replace(rescale_factors=rows)
    positions = torch.arange(10).reshape(2, 5)
    assert angles(per_layer, positions, 1).shape == (2, 5, 64)
    assert torch.equal(angles(per_layer, positions, 0), angles(factors, positions))
    assert not torch.equal(angles(per_layer, positions, 1), angles(factors, positions))


def test_the_formula_has_a_gradient_in_lambda():
    inverse = torch.tensor(GEOMETRY.inverse_frequencies())
    rescale = torch.full((64,), 2.0, dtype=torch.float64, requires_grad=True)
    positions = torch.tensor([3, 100])
    rescaled_angles(positions, inverse, rescale, 8).sum().backward()
    torch.testing.assert_close(rescale.grad, -100 * inverse / 4)


def near_far(window, length=32768, **changes):
    return RescaleFactors.single(
        **{
            "geometry": GEOMETRY,
            "target_length": length,
            "rescale_factors": ramp().rescale_factors[0],
            "near_window": window,
            **changes,
        }
    )


def score_angles(factors, query, key):
    """The angle of the score of a query and a key in the far part, shape (num_pairs,)."""
    near = angles(factors.near, torch.tensor([query, key]))
    further = far_angles(factors, torch.tensor([query - factors.near_window, key]))
    rotated = near + further
    return (rotated[0] - rotated[1]).numpy()


@given(window=st.integers(1, 4095), query=st.integers(0, LAST), key=st.integers(0, LAST))
def test_the_far_part_rotates_by_the_rescaled_distance_beyond_the_window(window, query, key):
    factors = near_far(window)
    theta, lambdas = GEOMETRY.inverse_frequencies(), factors.array()[0]
    expected = (query - key - window) * theta / lambdas + window * theta
    np.testing.assert_allclose(score_angles(factors, query, key), expected, rtol=0, atol=1e-8)


@given(window=st.integers(1, 4095), key=st.integers(0, LAST))
def test_both_parts_have_the_same_angle_at_the_near_window(window, key):
    factors = near_far(window)
    near = window * GEOMETRY.inverse_frequencies()
    np.testing.assert_allclose(score_angles(factors, window + key, key), near, rtol=0, atol=1e-8)


def test_the_far_part_has_a_row_for_each_layer():
    ones, row = (1.0,) * 64, ramp().rescale_factors[0]
    factors = near_far(1024).replace(rescale_factors=(ones, row))
    positions = torch.arange(10).reshape(2, 5)
    for layer_index, same in enumerate((near_far(1024, rescale_factors=ones), near_far(1024))):
        ours = far_angles(factors, positions, layer_index)
        assert ours.shape == (2, 5, 64)
        assert ours.dtype == torch.float64
        assert torch.equal(ours, far_angles(same, positions))


def test_one_rotation_is_not_computed_for_near_far_factors():
    positions, factors = torch.arange(4), near_far(1024)
    for compute in (
        lambda: angles(factors, positions),
        lambda: cos_sin(factors, positions),
        lambda: StackedFactors.of([factors.far, factors], positions.device),
    ):
        with pytest.raises(AssertionError):
            compute()
