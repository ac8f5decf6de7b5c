"""The precision that a server may compute in."""

import dataclasses

import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from ropewalk.export.gguf.export import write_base_gguf
from ropewalk.export.gguf.file import StoredTensor, read_gguf, write_gguf
from ropewalk.export.hf import export_hf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.base_model import may_be_rounded
from ropewalk.verify.endpoint import deciding_context


@pytest.mark.parametrize(("stated", "is_coarse"), [("float16", False), ("float32", True), ("bfloat16", True)])
def test_a_server_s_precision_follows_from_the_folder(loaded, tmp_path, stated, is_coarse):
    factor_set = FactorSet.of([scheme_factors("yarn", loaded.geometry, 256)])
    export_hf(loaded.name, factor_set, tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    text = config.read_text()
    assert '"float32"' in text
    config.write_text(text.replace('"float32"', f'"{stated}"'))
    assert may_be_rounded(tmp_path / "out") == is_coarse
    config.write_text(text.replace('"float32"', '"float16", "quantization_config": {"quant_method": "fp8"}'))
    assert may_be_rounded(tmp_path / "out")
    assert deciding_context(tmp_path / "out", 257) == 257


def test_llama_cpp_computes_what_a_gguf_file_holds_and_rounds_its_context_up(tmp_path):
    write_base_gguf("scale-model", tmp_path / "base.gguf")
    assert not may_be_rounded(tmp_path / "base.gguf")
    content = read_gguf(tmp_path / "base.gguf")
    weights = next(tensor for tensor in content.tensors if len(tensor.shape) == 2)
    packed = quantize(weights.read(), GGMLQuantizationType.Q8_0)
    coarse = StoredTensor(
        name=weights.name, tensor_type=GGMLQuantizationType.Q8_0, shape=packed.shape, dtype=packed.dtype,
        read=lambda: packed,
    )  # fmt: skip
    others = tuple(tensor for tensor in content.tensors if tensor is not weights)
    write_gguf(dataclasses.replace(content, tensors=(coarse, *others)), tmp_path / "coarse.gguf")
    assert may_be_rounded(tmp_path / "coarse.gguf")
    assert [deciding_context(tmp_path / "base.gguf", n) for n in (64, 256, 257)] == [256, 256, 512]
