"""What llama.cpp computes from the files that are written: make engines ENGINES=llama-cpp."""

import dataclasses
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from merged_tokenizer import make_merged_tokenizer
from torch import Tensor

from ropewalk.errors import ExportError, MissingEngineError
from ropewalk.export.gguf.export import export_gguf, write_base_gguf
from ropewalk.export.gguf.file import StoredTensor, Value, read_gguf, write_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.models.scale_model import SCALE_MODEL
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import token_documents
from ropewalk.verify.engines import EngineRequest
from ropewalk.verify.engines.llama_cpp import PYTHON_VARIABLE, llama_cpp_engine

needs_llama_cpp = pytest.mark.engine("llama-cpp")
WINDOW, LONGEST = 256, 2048
LOGITS = 1e-4  # of the largest logit; float32 in both, summed in another order
NATS = 1e-5  # in the mean
TEXTS = [
    "def tab(x):\n\treturn x[12] + 3456.789e-10\n\n\n    # ça va — 東京 🎉 ١٢٣ ⅷ\r\n",
    "'s I'll they'RE  don't,   trailing   \n \n  \t ",
    "a_b__c--d\u00a0e\u2028f \u0301x <s> </s> [PAD1] \x00\x7f",
    "0123456789" * 3 + " 1 22 333",
]


@pytest.fixture(scope="module")
def scale() -> Model:
    return load_model(SCALE_MODEL)


@pytest.fixture(scope="module")
def ids(scale: Model) -> Tensor:
    """One document, as long as the longest length."""
    documents = token_documents("stdlib", scale.tokenizer, length=LONGEST, num_documents=1)
    return documents.documents[0].ids


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """One that a GGUF file can hold."""
    return make_merged_tokenizer()


@pytest.fixture
def long(scale: Model) -> RescaleFactors:
    return scheme_factors("yarn", scale.geometry, LONGEST)


@needs_llama_cpp
@pytest.mark.parametrize("length", [100, WINDOW, WINDOW + 1, LONGEST])
def test_the_untouched_model_is_the_same(scale: Model, ids: Tensor, tmp_path: Path, length: int) -> None:
    write_base_gguf(SCALE_MODEL, tmp_path / "base.gguf")
    same(tmp_path / "base.gguf", scale, None, ids[:length])


@needs_llama_cpp
@pytest.mark.parametrize("length", [100, WINDOW, WINDOW + 1, 1000, LONGEST])
def test_pinned_factors_are_followed_at_every_length(
    scale: Model, ids: Tensor, long: RescaleFactors, tmp_path: Path, length: int
) -> None:
    export_gguf(SCALE_MODEL, FactorSet.of([long]), tmp_path / "out.gguf")
    same(tmp_path / "out.gguf", scale, long, ids[:length])


@needs_llama_cpp
def test_the_set_follows_the_context(scale: Model, ids: Tensor, long: RescaleFactors, tmp_path: Path) -> None:
    short = scheme_factors("pi:factor=1.5", scale.geometry, WINDOW).replace(
        attention_factor=long.attention_factor
    )
    export_gguf(SCALE_MODEL, FactorSet.of([short, long]), tmp_path / "out.gguf", mode="switching")
    same(tmp_path / "out.gguf", scale, short, ids[:100], context=WINDOW)
    same(tmp_path / "out.gguf", scale, short, ids[:WINDOW])
    same(tmp_path / "out.gguf", scale, long, ids[:100], context=WINDOW + 1)
    same(tmp_path / "out.gguf", scale, long, ids[: WINDOW + 1])
    with pytest.raises(AssertionError):  # what is the same here is not the same for the other set
        same(tmp_path / "out.gguf", scale, long, ids[:100], context=WINDOW)


@needs_llama_cpp
def test_a_window_between_steps_of_256_is_too_long_already(tiny_model_folder: Path, tmp_path: Path) -> None:
    """A context of 64 becomes 256, which is beyond a window of 64: the long factors."""
    loaded = load_model(tiny_model_folder)
    short, far = (
        RescaleFactors.single(geometry=loaded.geometry, target_length=target, rescale_factors=[factor] * 4)
        for target, factor in ((64, 1.0), (512, 8.0))
    )
    export_gguf(tiny_model_folder, FactorSet.of([short, far]), tmp_path / "out.gguf", mode="switching")
    ids = torch.arange(60) * 3 + 2
    same(tmp_path / "out.gguf", loaded, far, ids, context=64)


@needs_llama_cpp
@pytest.mark.parametrize("fault", ["dropped", "swapped", "attention", "scaled twice"])
def test_a_wrong_file_is_not_the_same(
    scale: Model, ids: Tensor, long: RescaleFactors, tmp_path: Path, fault: str
) -> None:
    """Each of these loads without an error; `scaled twice` is why rope.scaling.factor is never written."""
    short = scheme_factors("none", scale.geometry, LONGEST).replace(
        target_length=WINDOW, attention_factor=long.attention_factor
    )
    export_gguf(SCALE_MODEL, FactorSet.of([short, long]), tmp_path / "out.gguf", mode="switching")
    break_gguf(tmp_path / "out.gguf", tmp_path / "wrong.gguf", fault)
    same(tmp_path / "out.gguf", scale, long, ids)
    answer, ours = read(tmp_path / "wrong.gguf", scale, long, ids)
    assert abs(answer[1] - ours[1]) > 0.05


@needs_llama_cpp
def test_factors_go_into_a_rounded_file(
    scale: Model, ids: Tensor, long: RescaleFactors, tmp_path: Path
) -> None:
    """Q8_0 moves the untouched model a little; the factors move it as far as they do ours."""
    write_base_gguf(SCALE_MODEL, tmp_path / "full.gguf")
    content = read_gguf(tmp_path / "full.gguf")
    packed = tuple(t if len(t.shape) == 1 else pack(t) for t in content.tensors)
    write_gguf(dataclasses.replace(content, tensors=packed), tmp_path / "base.gguf")
    export_gguf(SCALE_MODEL, FactorSet.of([long]), tmp_path / "out.gguf", base=tmp_path / "base.gguf")
    (_, theirs), (_, ours) = read(tmp_path / "out.gguf", scale, long, ids)
    (_, theirs_plain), (_, ours_plain) = read(tmp_path / "base.gguf", scale, None, ids)
    assert abs((theirs - theirs_plain) - (ours - ours_plain)) < 0.02
    assert abs(ours - ours_plain) > 1


@needs_llama_cpp
def test_token_ids_are_the_same(scale: Model, tmp_path: Path, stdlib_texts: list[str]) -> None:
    """By llama.cpp's own tokenizer, of the file alone."""
    write_base_gguf(SCALE_MODEL, tmp_path / "base.gguf")
    texts = TEXTS + stdlib_texts
    theirs = tokenize(tmp_path / "base.gguf", texts)
    for text, found in zip(texts, theirs, strict=True):
        # The names of special tokens within a text are text to llama.cpp unless it is told otherwise.
        assert found == scale.tokenizer(text, split_special_tokens=True).input_ids


@needs_llama_cpp
def test_what_llama_cpp_can_not_load_is_said(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ExportError, match="could not load"):
        run(tmp_path / "no.gguf", torch.arange(5))


@pytest.mark.skipif(find_spec("llama_cpp") is not None, reason="llama-cpp-python is installed here")
def test_a_missing_llama_cpp_is_said() -> None:
    with pytest.raises(MissingEngineError, match="pip install llama-cpp-python"):
        llama_cpp_engine(sys.executable).version()


@pytest.mark.parametrize("missing", ["llama_cpp", "safetensors"])
def test_whatever_its_probe_lacks_is_said(tmp_path: Path, missing: str) -> None:
    python = tmp_path / "python"
    hidden = (
        f"import runpy, sys; sys.modules['{missing}'] = None; sys.modules.setdefault('llama_cpp', runpy); "
    )
    python.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "{hidden} del sys.argv[0]; runpy.run_path(sys.argv[0])" "$@"\n'
    )
    python.chmod(0o755)
    with pytest.raises(MissingEngineError, match=r"pip install llama-cpp-python.* safetensors"):
        llama_cpp_engine(str(python)).version()


@pytest.fixture(scope="module")
def stdlib_texts() -> list[str]:
    folder = Path(os.__file__).parent
    files = sorted(folder.glob("*.py"))[::20] + sorted((folder / "encodings").glob("*.py"))[::10]
    return [file.read_text(encoding="utf-8")[:20000] for file in files]


def same(
    path: Path, loaded: Model, factors: RescaleFactors | None, ids: Tensor, context: int | None = None
) -> None:
    (logits, nats), (our_logits, our_nats) = read(path, loaded, factors, ids, context)
    assert (logits - our_logits).abs().max() <= LOGITS * our_logits.abs().max()
    assert abs(nats - our_nats) <= NATS


def read(
    path: Path, loaded: Model, factors: RescaleFactors | None, ids: Tensor, context: int | None = None
) -> tuple[tuple[Tensor, float], tuple[Tensor, float]]:
    """(logits, mean nats) of llama.cpp, and ours."""
    output = run(path, ids, context)
    with loaded.using(factors), torch.no_grad():
        logits = loaded.model(ids[None]).logits[0]
    nats = torch.nn.functional.cross_entropy(logits[:-1].double(), ids[1:]).item()
    return (output.logits[0], float(output.nats[0].mean())), (logits, nats)


def run(path: Path, ids: Tensor, context: int | None = None) -> Any:
    request = EngineRequest(
        path=str(path), sequences=(tuple(ids.tolist()),), num_last=len(ids), context=context
    )
    return llama_cpp_engine().run(request)


def pack(tensor: StoredTensor) -> StoredTensor:
    kind = gguf.GGMLQuantizationType.Q8_0
    packed = gguf.quants.quantize(tensor.read(), kind)
    return StoredTensor(
        name=tensor.name, tensor_type=kind, shape=packed.shape, dtype=packed.dtype, read=lambda: packed
    )


def break_gguf(source: Path, out: Path, fault: str) -> None:
    content = read_gguf(source)
    metadata, tensors = dict(content.metadata), list(content.tensors)
    if fault == "dropped":
        tensors = [tensor for tensor in tensors if "rope_factors" not in tensor.name]
    elif fault == "swapped":
        other = {"rope_factors_long.weight": "rope_factors_short.weight"}
        other |= {new: old for old, new in other.items()}
        tensors = [dataclasses.replace(t, name=other.get(t.name, t.name)) for t in tensors]
    elif fault == "attention":
        del metadata["llama.rope.scaling.attn_factor"]
    else:
        metadata["llama.rope.scaling.factor"] = Value(8.0, gguf.GGUFValueType.FLOAT32)
    write_gguf(dataclasses.replace(content, metadata=metadata, tensors=tuple(tensors)), out)


def tokenize(path: Path, texts: list[str]) -> list[list[int]]:
    code = (
        "import json, sys, llama_cpp\n"
        "model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)\n"
        "texts = json.load(sys.stdin)\n"
        "print(json.dumps([model.tokenize(text.encode(), add_bos=True, special=False) for text in texts]))\n"
    )
    python = os.environ[PYTHON_VARIABLE]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", code, str(path)],
        input=json.dumps(texts), capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    read: list[list[int]] = json.loads(done.stdout)
    return read
