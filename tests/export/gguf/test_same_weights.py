"""A GGUF file is compared with the checkpoint that it was made from."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import (
    SET,
    edit,
    refused,
    rounded,
)
from transformers import LlamaForCausalLM

from ropewalk.errors import ExportError
from ropewalk.export.gguf.compatibility import gguf_geometry
from ropewalk.export.gguf.export import export_gguf, write_base_gguf
from ropewalk.export.gguf.file import read_gguf, write_gguf
from ropewalk.export.gguf.same_weights import LARGEST_MISPLACED, misplaced_share
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.rope.schemes import scheme_factors


def test_a_file_of_the_same_weights_is_accepted_and_of_others_refused(
    tiny_model_folder: Path, tiny_model: LlamaForCausalLM, base: Path, tmp_path: Path
) -> None:
    export_gguf(tiny_model_folder, SET, tmp_path / "out.gguf", base=base)
    assert (tmp_path / "out.gguf").read_bytes() != base.read_bytes()
    with torch.no_grad():
        tiny_model.model.layers[1].self_attn.k_proj.weight[3] *= 1.001
    tiny_model.save_pretrained(tiny_model_folder)
    refused(tiny_model_folder, tmp_path / "other.gguf", "blk.1.attn_k.weight", base=base)


def test_transformers_need_not_know_the_model(tiny_model_folder: Path, base: Path, tmp_path: Path) -> None:
    edit(tiny_model_folder / "config.json", model_type="made-elsewhere")
    made_on = Provenance(model="another-model", weights_sha256="f" * 64)
    entries = FactorSet.of([SET.longest.replace(provenance=made_on)])
    assert export_gguf(tiny_model_folder, entries, tmp_path / "out.gguf", base=base).path.is_file()


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q5_1,
                                  gguf.GGMLQuantizationType.Q8_0])  # fmt: skip
def test_rounding_is_distinguished_from_other_weights(kind: Any) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    stored = gguf.quants.dequantize(gguf.quants.quantize(weights, kind), kind)
    other = weights + 0.01 * np.random.default_rng(1).standard_normal(weights.shape).astype(np.float32)
    assert misplaced_share(weights, stored) <= LARGEST_MISPLACED[kind] / 2
    assert misplaced_share(other, stored) > LARGEST_MISPLACED[kind]


def test_a_rounded_file_is_compared_with_its_checkpoint(tmp_path: Path) -> None:
    write_base_gguf(SCALE_MODEL, tmp_path / "full.gguf")
    base, kind = tmp_path / "rounded.gguf", gguf.GGMLQuantizationType.Q8_0
    full = read_gguf(tmp_path / "full.gguf")
    tensors = [t if len(t.shape) == 1 else rounded(t, kind) for t in full.tensors]
    write_gguf(dataclasses.replace(full, tensors=tuple(tensors)), base)
    entries = FactorSet.of([scheme_factors("pi", gguf_geometry(full), 2048)])
    tuned = Path(shutil.copytree(scale_model_path(), tmp_path / "tuned"))
    export_gguf(tuned, entries, tmp_path / "same.gguf", base=base)
    model = LlamaForCausalLM.from_pretrained(tuned)
    with torch.no_grad():
        weight = model.model.layers[0].self_attn.v_proj.weight
        weight += 0.01 * weight.std() * torch.randn_like(weight)
    model.save_pretrained(tuned)
    with pytest.raises(ExportError, match=r"blk\.0\.attn_v\.weight"):
        export_gguf(tuned, entries, tmp_path / "other.gguf", base=base)
