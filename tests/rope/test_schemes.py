import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import CLOSED_FORMS, SCHEME_NAMES, parse_scheme, scheme_factors

SHAPES = [
    (64, 625.0, 256, 8),
    (128, 10000.0, 4096, 32),
    (128, 500000.0, 8192, 16),
    (80, 10000.0, 2048, 2.5),
    (64, 625.0, 64, 8),  # YaRN's ramp would begin before the fastest pair
    (32, 10.0, 8192, 4),  # and here end far behind the slowest
]


def geometry_of(dim, theta, length):
    return RopeGeometry(head_dim=dim, rotary_dim=dim, rope_theta=theta, original_length=length, num_layers=2)


SCALE = geometry_of(64, 625.0, 256)


def lambdas(text, geometry=SCALE, target=2048):
    return scheme_factors(text, geometry, target).array()[0]


def transformers_parameters(rope_type, dim, theta, length, factor, seq_len=None, **extra):
    config = LlamaConfig(
        hidden_size=2 * dim,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=length,
        rope_parameters={"rope_type": rope_type, "rope_theta": theta, "factor": factor, **extra},
    )
    inverse, attention_factor = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu", seq_len=seq_len)
    return inverse.double().numpy(), attention_factor


@pytest.mark.parametrize(("dim", "theta", "length", "factor"), SHAPES)
@pytest.mark.parametrize(
    ("rope_type", "scheme", "extra"),
    [
        ("linear", "pi", {}),
        ("yarn", "yarn", {}),
        (
            "yarn",
            "yarn:beta_fast=16,beta_slow=2,truncate=0",
            {"beta_fast": 16, "beta_slow": 2, "truncate": False},
        ),
        ("yarn", "yarn:attention_factor=1", {"attention_factor": 1.0}),
        ("llama3", "llama3", {"low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("llama3", "llama3:high_freq_factor=8", {"low_freq_factor": 1.0, "high_freq_factor": 8.0}),
    ],
)
def test_parity_with_transformers_pair_by_pair(rope_type, scheme, extra, dim, theta, length, factor):
    if rope_type != "linear":
        extra = {**extra, "original_max_position_embeddings": length}
    inverse, attention_factor = transformers_parameters(rope_type, dim, theta, length, float(factor), **extra)
    ours = scheme_factors(scheme, geometry_of(dim, theta, length), int(length * factor))
    np.testing.assert_allclose(
        ours.geometry.inverse_frequencies() / ours.array()[0], inverse, rtol=2e-6, err_msg=scheme
    )
    assert ours.attention_factor == pytest.approx(attention_factor, rel=1e-12)


@pytest.mark.parametrize(("dim", "theta", "length", "factor"), SHAPES)
@pytest.mark.parametrize("own_factor", [1.0, 2.0, 4.0])
def test_dynamic_ntk_is_transformers_dynamic_at_every_length(dim, theta, length, factor, own_factor):
    seq_len = int(length * factor)
    inverse, _ = transformers_parameters("dynamic", dim, theta, length, own_factor, seq_len=seq_len)
    geometry = geometry_of(dim, theta, length)
    ours = lambdas(f"dynamic-ntk:factor={own_factor}", geometry, seq_len)
    np.testing.assert_allclose(geometry.inverse_frequencies() / ours, inverse, rtol=2e-6)


def test_dynamic_ntk_leaves_short_inputs_alone():
    assert lambdas("dynamic-ntk:factor=4", target=256).tolist() == [1.0] * 32
    assert lambdas("dynamic-ntk", target=100).tolist() == [1.0] * 32


def test_ntk_changes_the_base():
    geometry = geometry_of(128, 10000.0, 4096)
    base = 10000.0 * 8 ** (128 / 126)
    expected = base ** (-np.arange(64) * 2 / 128)
    np.testing.assert_allclose(
        geometry.inverse_frequencies() / lambdas("ntk", geometry, 32768), expected, rtol=1e-12
    )
    assert lambdas("ntk")[0] == 1
    assert lambdas("ntk")[-1] == pytest.approx(8)


# Four pairs of a geometry chosen so that the arithmetic can be done by hand:
# theta_i = 16^(-i/4) = 1, 1/2, 1/4, 1/8; window 64 pi, so r_i = 32, 16, 8, 4 turns (64 pi is no whole
# number of tokens: 201 is used, and turns are 201 / 2 pi = 31.99, 15.995, 7.997, 3.999).
HAND = geometry_of(8, 16.0, 201)


def test_yarn_as_published_by_hand():
    # gamma = (r - 1) / 31: 0.999680, 0.483711, 0.225727, 0.096734; 1 / lambda = (1 - gamma) / 4 + gamma
    expected = [1.0002400, 1.6321, 2.38461, 3.10027]
    assert scheme_factors("yarn-paper", HAND, 804).array()[0] == pytest.approx(expected, rel=2e-4)
    assert scheme_factors("yarn-paper", HAND, 804).attention_factor == pytest.approx(1.1386294, rel=1e-6)


def test_mrrope_by_hand():
    # All four pairs lie in the band of 32 to 1 turns: q = 1, 2, 3, 4 of n = 4, s = 16.
    uni = scheme_factors("mrrope-uni", HAND, 16 * 201)
    pro = scheme_factors("mrrope-pro", HAND, 16 * 201)
    assert uni.array()[0] == pytest.approx([2, 4, 8, 16])
    assert pro.array()[0] == pytest.approx([16**0.1, 16**0.3, 16**0.6, 16])
    assert uni.attention_factor == pytest.approx(0.1 * math.log(16) + 1)


def test_mrrope_leaves_pairs_before_the_band_and_interpolates_those_after():
    turns = SCALE.turns()
    for name in ("mrrope-uni", "mrrope-pro"):
        values = lambdas(name)
        assert np.all(values[turns > 32] == 1)
        assert np.all(values[turns < 1] == pytest.approx(8))


def test_the_two_yarn_ramps_differ():
    assert np.abs(np.log(lambdas("yarn") / lambdas("yarn-paper"))).max() > 0.5


@given(
    name=st.sampled_from([name for name in SCHEME_NAMES if name != "near-far"]),
    dim=st.sampled_from([2, 4, 16, 64, 128]),
    theta=st.floats(10, 1e7),
    length=st.integers(16, 131072),
    factor=st.floats(1, 512),
)
def test_every_scheme_stays_between_1_and_interpolation_by_s(name, dim, theta, length, factor):
    geometry = geometry_of(dim, theta, length)
    target = int(length * factor)
    values = lambdas(name, geometry, target)
    assert np.all(values >= 1)
    assert np.all(values <= target / length * (1 + 1e-9))
    assert np.all(np.diff(values) >= -1e-12)


@given(length=st.integers(8, 131072), target=st.integers(8, 2**24), data=st.data())
def test_near_far_maps_every_distance_below_the_target_into_the_model_s_window(length, target, data):
    window = data.draw(st.integers(1, length - 1))
    geometry = geometry_of(8, 10000.0, length)
    factors = scheme_factors(f"near-far:window={window}", geometry, length + target)
    (factor,) = set(factors.rescale_factors[0])
    distance = data.draw(st.integers(window, factors.target_length - 1))
    assert factors.near_window == window
    assert window <= window + (distance - window) / factor < length
    assert window + (factors.target_length - window) / factor == pytest.approx(length)


def test_near_far_has_the_window_and_the_attention_factors_that_are_given():
    default = scheme_factors("near-far", SCALE, 2048)
    assert default.near_window == 64
    assert default.array()[0] == pytest.approx((2048 - 64) / (256 - 64))
    attention_factors = (default.attention_factor, default.near_attention_factor)
    assert attention_factors == pytest.approx((1 + 0.05 * math.log(8),) * 2)
    given = "near-far:window=32,factor=4,attention_factor=1.5,near_attention_factor=1.25"
    factors = scheme_factors(given, SCALE, 2048)
    assert (factors.near_window, factors.attention_factor, factors.near_attention_factor) == (32, 1.5, 1.25)
    assert factors.array()[0] == pytest.approx((4 * 256 - 32) / (256 - 32))
    assert factors.provenance.strategy == given


@pytest.mark.parametrize("text", ["near-far", "near-far:factor=8", "near-far:window=32,attention_factor=2"])
def test_near_far_within_the_model_s_window_is_none(text):
    none, factors = (scheme_factors(name, SCALE, 256) for name in ("none", text))
    assert factors.replace(provenance=none.provenance) == none


@pytest.mark.parametrize("window", [256, 300])
def test_a_near_window_that_is_not_below_the_model_s_is_refused(window):
    for target in (256, 2048):
        with pytest.raises(SettingError, match="window"):
            scheme_factors(f"near-far:window={window}", SCALE, target)


def test_closed_forms_of_a_search_are_plain():
    assert not any(scheme_factors(name, SCALE, 2048).is_near_far for name in CLOSED_FORMS)
    assert {name.partition(":")[0] for name in CLOSED_FORMS} == set(SCHEME_NAMES) - {"near-far"}


def test_a_scheme_without_factor_takes_the_ratio_of_lengths():
    assert lambdas("pi", target=1024).tolist() == [4.0] * 32
    assert lambdas("pi:factor=3", target=1024).tolist() == [3.0] * 32
    assert lambdas("pi", target=100).tolist() == [1.0] * 32
    assert (
        scheme_factors("yarn:factor=8,beta_fast=16", SCALE, 512).provenance.strategy
        == "yarn:factor=8,beta_fast=16"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yran", "yarn"),
        ("", "scheme"),
        ("pi:beta_fast=3", "beta_fast"),
        ("yarn:factor=lots", "number"),
        ("yarn:factor", "number"),
        ("yarn:factor=nan", "finite"),
        ("yarn:factor=0.5", "factor"),
        ("yarn:beta_fast=0", "beta_fast"),
        ("yarn:beta_fast=1,beta_slow=2", "beta_fast"),
        ("yarn:attention_factor=-1", "attention_factor"),
        ("yarn:window=64", "window"),
        ("near-far:window=0", "window"),
        ("near-far:window=64.5", "window"),
        ("near-far:near_attention_factor=0", "near_attention_factor"),
    ],
)
def test_unknown_schemes_and_parameters_are_named(text, said):
    with pytest.raises(SettingError) as error:
        parse_scheme(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


OWN = """
import numpy as np

def power(geometry, extension_ratio, exponent=2.0):
    return extension_ratio ** (np.linspace(0, 1, geometry.num_pairs) ** exponent)

def almost_one(geometry, extension_ratio):
    return np.full(geometry.num_pairs, 1 - 1e-14)

def below_one(geometry, extension_ratio):
    return np.full(geometry.num_pairs, 0.5)

def of_another_shape(geometry, extension_ratio):
    return np.ones(geometry.num_pairs + 1)

def broken(geometry, extension_ratio):
    raise KeyError("no such pair")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_schemes.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_plugin_scheme(own):
    share = np.linspace(0, 1, SCALE.num_pairs)
    np.testing.assert_allclose(lambdas("own_schemes:power"), 8.0 ** (share**2))
    np.testing.assert_allclose(lambdas("own_schemes:power:exponent=3"), 8.0 ** (share**3))
    np.testing.assert_allclose(lambdas("own_schemes:power:factor=4,exponent=-0"), np.full(len(share), 4.0))
    assert scheme_factors("own_schemes:power", SCALE, 2048).attention_factor == 1.0
    factors = scheme_factors("own_schemes:power:attention_factor=1.2", SCALE, 2048)
    assert factors.attention_factor == 1.2
    assert factors.provenance.strategy == "own_schemes:power:attention_factor=1.2"


@pytest.mark.parametrize("text", ["yarrn", "yarrn:factor=8", "yarrn:"])
def test_a_misspelt_scheme_is_not_a_plugin(text):
    with pytest.raises(SettingError, match="yarrn"):
        parse_scheme(text)


def test_a_plugin_scheme_has_its_own_parameters(own):
    with pytest.raises(SettingError, match="exponent"):
        parse_scheme("own_schemes:power:slope=1")


def test_the_band_of_mrrope_has_the_pairs_at_both_of_its_ends():
    turns = SCALE.turns()
    for scheme in ("mrrope-uni", "mrrope-pro"):
        ends = f"beta_fast={float(turns[8])!r},beta_slow={float(turns[12])!r}"
        found = lambdas(f"{scheme}:{ends}")
        assert (found[:8] == 1).all()
        assert (np.diff(found[7:13]) > 0).all(), "five pairs, each slower than the one before it"
        assert found[12:] == pytest.approx(8)


@pytest.mark.parametrize("name", ["yarn", "yarn-paper", "mrrope-pro"])
def test_a_ramp_of_no_width_is_refused(name):
    with pytest.raises(SettingError, match="beta_fast"):
        parse_scheme(f"{name}:beta_fast=2,beta_slow=2")
    assert parse_scheme(f"{name}:beta_fast=2,beta_slow=1.999").parameters["beta_slow"] == 1.999


def test_1_but_for_rounding_is_1(own):
    assert lambdas("own_schemes:almost_one").tolist() == [1.0] * 32


@pytest.mark.parametrize(
    ("name", "noun"), [("below_one", "0.5"), ("of_another_shape", "shape"), ("broken", "KeyError")]
)
def test_wrong_factors_of_a_plugin_scheme_are_one_line(own, name, noun):
    with pytest.raises(SettingError, match=noun) as error:
        lambdas(f"own_schemes:{name}")
    assert "\n" not in str(error.value)
