"""Which factors, architectures, scalings and geometries are refused."""

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import (
    FACTORS,
    GEOMETRY,
    SET,
    WINDOW,
    changed,
    entry,
    refused,
    renamed,
)

from ropewalk.export.gguf.compatibility import ARCHITECTURES
from ropewalk.export.gguf.export import export_gguf
from ropewalk.export.gguf.file import StoredTensor, Value, read_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors


@pytest.mark.parametrize(
    ("factors", "noun"),
    [
        (FACTORS.replace(num_start_tokens=4), "start tokens"),
        (FACTORS.replace(geometry=dataclasses.replace(GEOMETRY, rope_theta=625.0)), "rope_theta"),
        (FACTORS.replace(geometry=dataclasses.replace(GEOMETRY, original_length=32)), "original_length"),
    ],
)  # fmt: skip
def test_factors_that_a_file_can_not_store_are_refused(
    base: Path, tmp_path: Path, factors: RescaleFactors, noun: str
) -> None:
    refused(base, tmp_path / "out.gguf", noun, FactorSet.of([factors]))


def test_two_attention_factors_are_refused_when_switching(base: Path, tmp_path: Path) -> None:
    entries = FactorSet.of([entry(WINDOW, 1.0, 1.0), FACTORS])
    refused(base, tmp_path / "out.gguf", "one for both", entries, mode="switching")
    export_gguf(base, entries, tmp_path / "out.gguf")


def test_a_stated_window_that_is_wrong_is_corrected(base: Path, tmp_path: Path) -> None:
    other = changed(base, tmp_path / "other.gguf", metadata={"llama.context_length": Value.uint32(131072)})
    refused(other, tmp_path / "out.gguf", "original_length is 64, not 131072")
    export_gguf(other, SET, tmp_path / "out.gguf", original_length=WINDOW)


@pytest.mark.parametrize(
    "key",
    ["rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor",
     "rope.scaling.yarn_log_multiplier"],
)  # fmt: skip
def test_a_scaled_file_is_refused(base: Path, tmp_path: Path, key: str) -> None:
    value = Value.string("yarn") if key.endswith("type") else Value(2.0, gguf.GGUFValueType.FLOAT32)
    refused(
        changed(base, tmp_path / "other.gguf", metadata={f"llama.{key}": value}),
        tmp_path / "o.gguf",
        "scaling",
    )


def test_a_file_with_llama_3_factors_is_refused(base: Path, tmp_path: Path) -> None:
    more = (StoredTensor.float32("rope_freqs.weight", (4,), lambda: np.ones(4, np.float32)),)
    refused(changed(base, tmp_path / "l3.gguf", tensors=more), tmp_path / "out.gguf", "rope_freqs.weight")


def test_a_scaling_of_type_none_is_no_scaling(base: Path, tmp_path: Path) -> None:
    none = changed(base, tmp_path / "none.gguf", metadata={"llama.rope.scaling.type": Value.string("none")})
    written = read_gguf(export_gguf(none, SET, tmp_path / "out.gguf").path)
    assert written.get("rope.scaling.type") == "longrope"


@pytest.mark.parametrize("architecture", ["qwen2", "pangu-embedded"])
def test_architectures_that_ignore_factors_are_refused(base: Path, tmp_path: Path, architecture: str) -> None:
    refused(renamed(base, tmp_path / "other.gguf", architecture), tmp_path / "out.gguf", "architecture")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_that_read_factors_get_them(base: Path, tmp_path: Path, architecture: str) -> None:
    out = export_gguf(renamed(base, tmp_path / "o.gguf", architecture), SET, tmp_path / "out.gguf").path
    assert read_gguf(out).metadata[f"{architecture}.rope.scaling.type"].plain == "longrope"
