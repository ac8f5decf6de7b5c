"""What the plugin decides before it touches vLLM; tests/test_vllm_source.py has vLLM's own files."""

import logging
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ropewalk.errors import FactorsError
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.frequencies import cos_sin
from ropewalk.vllm_plugin import (
    FACTORS_NAME,
    cos_sin_table,
    factors_for,
    find_factors,
    is_known,
    register,
)

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=8, rope_theta=10000.0, original_length=64, num_layers=2)
LONG = RescaleFactors.single(
    geometry=GEOMETRY,
    target_length=512,
    rescale_factors=[1, 2, 4, 8],
    num_start_tokens=3,
    attention_factor=1.1,
)
ROTARY = SimpleNamespace(
    head_size=16, rotary_dim=8, base=10000, original_max_position_embeddings=64, long_factor=(1, 2, 4, 8)
)


def started(folder, max_model_len=512, speculative=None):
    model_config = SimpleNamespace(model=str(folder), revision=None, max_model_len=max_model_len)
    return SimpleNamespace(model_config=model_config, speculative_config=speculative)


def save(folder, *entries):
    FactorSet(entries=entries or (LONG,)).save(folder / FACTORS_NAME)
    return folder


def rotary(**changes):
    return SimpleNamespace(**{**vars(ROTARY), **changes})


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="vllm.ropewalk")
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_entry_point_is_this_function():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    (value,) = project["project"]["entry-points"]["vllm.general_plugins"].values()
    module, _, name = value.partition(":")
    assert getattr(import_module(module), name) is register


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("0.11.0", False),
        ("0.11.1", True),
        ("0.20.2.post1", True),
        ("0.33.0+cpu", True),
        ("0.33.7", True),
        ("0.34.0rc1", False),
        ("1.0", False),
        ("dev", False),
    ],
)
def test_versions(version, known):
    assert is_known(version) is known


def test_an_unknown_version_is_refused_in_one_line(monkeypatch, said):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.99.0"))
    register()
    (message,) = said()
    assert "vLLM 0.99.0" in message
    assert "0.11.1 to 0.33" in message


def test_another_class_under_a_known_version_is_refused(monkeypatch, said, tmp_path):
    """Packages of our own, whose class says nothing about vLLM's: it must never be looked at."""
    folder = tmp_path / "vllm/model_executor/layers/rotary_embedding"
    folder.mkdir(parents=True)
    for place in (folder, *folder.parents):
        if place == tmp_path:
            break
        (place / "__init__.py").write_text('__version__ = "0.33.0"\n')
    (folder / "phi3_long_rope_scaled_rope.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        register()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
            del sys.modules[name]
    (message,) = said()
    assert "LongRoPE rotary" in message


def test_nothing_beside_a_checkpoint(tmp_path):
    assert find_factors(str(tmp_path), None) is None
    (tmp_path / "model.gguf").touch()
    assert find_factors(str(tmp_path / "model.gguf"), None) is None
    assert factors_for(ROTARY, started(tmp_path)) is None


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[1, 2]", b'{"format": "of somebody else"}'])
def test_other_peoples_files_of_that_name_are_none_of_ours(tmp_path, content):
    (tmp_path / FACTORS_NAME).write_bytes(content)
    assert factors_for(ROTARY, started(tmp_path)) is None


def test_the_entry_follows_max_model_len(tmp_path):
    short = LONG.replace(target_length=128, rescale_factors=((1.0, 1.0, 2.0, 2.0),))
    save(tmp_path, short, LONG)
    assert factors_for(ROTARY, started(tmp_path, 128)).target_length == 128
    assert factors_for(ROTARY, started(tmp_path, 129)).target_length == 512


@pytest.mark.parametrize(
    ("changes", "said_of"),
    [
        ({"base": 500000}, "rope_theta is 10000"),
        ({"rotary_dim": 16}, "rotary_dim is 8"),
        ({"head_size": 8}, "head_dim is 16"),
        ({"original_max_position_embeddings": 32}, "original_length is 64"),
        ({"long_factor": (1, 2, 4)}, "num_pairs is 4"),
        ({"long_factor": (1, 2, 4, 9)}, "pair 3 is 8, not 9"),
    ],
)
def test_a_set_of_another_checkpoint_stops_vllm_but_not_for_a_draft_model(tmp_path, said, changes, said_of):
    save(tmp_path)
    with pytest.raises(FactorsError, match="checkpoint") as caught:
        factors_for(rotary(**changes), started(tmp_path))
    assert said_of in str(caught.value)
    assert "\n" not in str(caught.value)
    assert factors_for(rotary(**changes), started(tmp_path, speculative=object())) is None
    assert said_of in said()[-1]


def test_what_a_configuration_rounds_is_no_difference(tmp_path):
    save(tmp_path, LONG.replace(rescale_factors=((1.0, 2.1, 4.2, 8.3),)))
    single = torch.tensor([1.0, 2.1, 4.2, 8.3]).tolist()
    assert factors_for(rotary(long_factor=single), started(tmp_path)) is not None


def test_beyond_the_longest_entry_and_a_vector_for_each_layer(tmp_path):
    save(tmp_path)
    with pytest.raises(FactorsError, match="512"):
        factors_for(ROTARY, started(tmp_path, 513))
    save(tmp_path, LONG.replace(rescale_factors=LONG.rescale_factors * 2))
    with pytest.raises(FactorsError, match="layer"):
        factors_for(ROTARY, started(tmp_path))


def test_factors_with_a_near_window_stop_vllm(tmp_path):
    near_far = LONG.replace(near_window=16, num_start_tokens=0)
    FactorSet.of([near_far]).save(tmp_path / FACTORS_NAME)
    with pytest.raises(FactorsError, match="near window"):
        factors_for(ROTARY, started(tmp_path))


def test_the_table_in_parts_is_the_formula(monkeypatch):
    monkeypatch.setattr("ropewalk.vllm_plugin.POSITIONS_AT_ONCE", 100)
    table = cos_sin_table(LONG, 512)
    assert torch.equal(table, torch.cat(cos_sin(LONG, torch.arange(512)), dim=-1).float())


def test_the_table_is_made_on_the_processor_and_put_where_vllm_makes_tensors():
    with torch.device("meta"):
        assert cos_sin_table(LONG, 512).device.type == "meta"


def hub(folder, files):
    """The cache that the hub's own client keeps."""
    repository = folder / "models--somebody--a-model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    for name, content in files.items():
        (repository / "snapshots" / commit / name).write_text(content)


def test_a_checkpoint_of_the_hub_is_looked_up_in_its_repository(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub(tmp_path, {FACTORS_NAME: FactorSet(entries=(LONG,)).to_json()})
    assert factors_for(ROTARY, started("somebody/a-model")) == LONG


def test_a_hub_that_cannot_be_asked_is_said_and_changes_nothing(tmp_path, monkeypatch, said):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub(tmp_path, {"config.json": "{}"})
    assert factors_for(ROTARY, started("somebody/a-model")) is None
    (message,) = said()
    assert f"{FACTORS_NAME} of somebody/a-model" in message
