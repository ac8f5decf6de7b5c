"""Factors in GGUF files: what is added, what stays, what is refused. llama.cpp itself: test_llama_cpp."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from merged_tokenizer import make_merged_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ropewalk.errors import ExportError, ModelError
from ropewalk.export import Mode
from ropewalk.export.gguf.export import (
    ARCHITECTURES,
    export_gguf,
    gguf_geometry,
    largest_short_context,
    read_mode,
    write_base_gguf,
)
from ropewalk.export.gguf.file import GgufContent, StoredTensor, Value, read_gguf, text, whole, write_gguf
from ropewalk.export.gguf.weights import LARGEST_MISPLACED, misplaced_share
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance, RescaleFactors
from ropewalk.models.fingerprint import OtherWeightsWarning, hash_weights
from ropewalk.models.model import load_model
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.rope.schemes import scheme_factors

WINDOW = 64
GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=100.0, original_length=WINDOW, num_layers=2)
FACTORS = scheme_factors("yarn", GEOMETRY, 512)
SET = FactorSet.of([FACTORS])
ADDED = {
    "llama.context_length",
    "llama.rope.scaling.type",
    "llama.rope.scaling.original_context_length",
    "llama.rope.scaling.attn_factor",
}


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """One that a GGUF file can hold."""
    return make_merged_tokenizer()


@pytest.fixture
def base(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny Llama as a GGUF file, with values of every type that others write there."""
    write_base_gguf(tiny_model_folder, tmp_path / "plain.gguf")
    odd = {
        "general.tags": Value([b"one", b"\xff\xfe"], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING),
        "odd.uint8": Value(7, gguf.GGUFValueType.UINT8),
        "odd.int64": Value(-(2**40), gguf.GGUFValueType.INT64),
        "odd.float64": Value(1 / 3, gguf.GGUFValueType.FLOAT64),
        "odd.floats": Value([0.1, 0.2], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.FLOAT64),
        "odd.flags": Value([True, False], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.BOOL),
    }
    return changed(tmp_path / "plain.gguf", tmp_path / "base.gguf", metadata=odd)


def test_only_what_is_named_is_added_or_changed(base: Path, tmp_path: Path) -> None:
    done = export_gguf(base, SET, tmp_path / "out.gguf")
    before, after = raw(base), raw(done.path)
    new = {key for key in after[0] if after[0][key] != before[0].get(key)}
    assert {key for key in new if not key.startswith("ropewalk.")} == ADDED
    assert set(before[0]) <= set(after[0])
    assert list(before[1].items()) == list(after[1].items())[: len(before[1])]
    assert list(after[1])[len(before[1]) :] == ["rope_factors_long.weight", "rope_factors_short.weight"]


def test_it_holds_the_factors(base: Path, tmp_path: Path) -> None:
    done = export_gguf(base, SET, tmp_path / "out.gguf")
    written = read_gguf(done.path)
    assert written.get("rope.scaling.type") == "longrope"
    assert written.get("rope.scaling.original_context_length") == WINDOW
    assert written.get("context_length") == 512
    assert written.get("rope.scaling.attn_factor") == np.float32(FACTORS.attention_factor)
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        tensor = written.tensor(name)
        assert tensor is not None
        assert tensor.load().tolist() == np.float32(FACTORS.rescale_factors[0]).tolist()
    assert written.get("rope.scaling.factor") is None
    assert written.metadata["ropewalk.mode"].plain == read_mode(done.path) == "pinned"
    assert written.metadata["ropewalk.geometry_fingerprint"].plain == GEOMETRY.fingerprint()
    assert read_mode(base) is None
    assert done.as_json()["files"].keys() == {"out.gguf"}


def test_switching_holds_both_entries_and_says_what_it_leaves_out(base: Path, tmp_path: Path) -> None:
    short, between = (
        entry(target, factor, FACTORS.attention_factor) for target, factor in ((WINDOW, 1.5), (128, 2.0))
    )
    entries = FactorSet.of([short, between, FACTORS])
    done = export_gguf(base, entries, tmp_path / "out.gguf", mode="switching")
    written = read_gguf(done.path)
    assert factors_in(written, "short") == np.float32(short.rescale_factors[0]).tolist()
    assert factors_in(written, "long") == np.float32(FACTORS.rescale_factors[0]).tolist()
    assert [dropped.what for dropped in done.dropped] == ["the entry for 128 tokens"]
    pinned = export_gguf(base, entries, tmp_path / "pinned.gguf")
    assert factors_in(read_gguf(pinned.path), "short") == factors_in(written, "long")
    assert len(pinned.dropped) == 2


def test_the_engines_are_named(base: Path, tmp_path: Path) -> None:
    notes = {
        note.engine: note for note in export_gguf(base, SET, tmp_path / "o.gguf", mode="switching").engines
    }
    assert notes["llama.cpp"].is_served
    assert "never takes the short" in notes["llama.cpp"].what  # a window of 64 is below one step of 256
    assert not notes["transformers"].is_served


@pytest.mark.parametrize(("window", "largest"), [(64, 0), (256, 256), (300, 256), (8192, 8192)])
def test_contexts_are_rounded_up(window: int, largest: int) -> None:
    assert largest_short_context(window) == largest


def read_by_transformers(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)


def test_transformers_reads_the_written_file_as_the_untouched_model(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """What the note to users says, and why `load_model` refuses it; when this fails, it has learnt to."""
    done = export_gguf(tiny_model_folder, SET, tmp_path / "out.gguf")
    read, untouched = read_by_transformers(done.path), load_model(tiny_model_folder)
    assert read.config.rope_parameters["rope_type"] == "default"
    assert hash_weights(read) == untouched.weights_sha256
    with pytest.raises(ModelError, match="scaled already"):
        load_model(done.path)


def test_factors_made_on_other_weights_are_warned_of(tiny_model_folder: Path, tmp_path: Path) -> None:
    made_on = Provenance(model="another-model", weights_sha256="f" * 64)
    other = FactorSet.of([SET.longest.replace(provenance=made_on)])
    with pytest.warns(OtherWeightsWarning, match="were made on another-model"):
        export_gguf(tiny_model_folder, other, tmp_path / "out.gguf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_written_whole(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    tiny_model.to(dtype).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    path = export_gguf(tmp_path / "model", SET, tmp_path / "out.gguf").path
    written, ours = read_by_transformers(path), load_model(tmp_path / "model")
    assert hash_weights(written) == ours.weights_sha256
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(written(ids).logits, ours.model(ids).logits)
    said = "def tab(x): return 12 + x  # ça 🎉"
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert tokenizer(said).input_ids == ours.tokenizer(said).input_ids


def test_the_scale_model_is_written_whole(tmp_path: Path) -> None:
    geometry = load_model(SCALE_MODEL).geometry
    export_gguf(SCALE_MODEL, FactorSet.of([scheme_factors("pi", geometry, 2048)]), tmp_path / "out.gguf")
    content = read_gguf(tmp_path / "out.gguf")
    assert gguf_geometry(content) == dataclasses.replace(geometry, original_length=2048)
    assert gguf_geometry(content, 256) == geometry
    assert content.metadata["tokenizer.ggml.pre"].plain == "smollm"  # every digit on its own
    assert content.metadata["tokenizer.ggml.add_bos_token"].plain is True
    assert len(content.metadata["tokenizer.ggml.tokens"].plain) == 2048


def test_a_tuned_checkpoint_loses_its_own_scaling(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The factors stand in for what the trainer's configuration holds."""
    edit(tiny_model_folder / "config.json", rope_parameters={
        "rope_type": "longrope", "rope_theta": 100.0, "factor": 8.0,
        "original_max_position_embeddings": WINDOW,
        "short_factor": [2.0] * 4, "long_factor": [2.0] * 4, "attention_factor": 1.1,
    }, max_position_embeddings=512)  # fmt: skip
    export_gguf(tiny_model_folder, SET, tmp_path / "out.gguf")
    assert read_gguf(tmp_path / "out.gguf").get("rope.scaling.original_context_length") == WINDOW


def test_a_file_of_the_same_weights_is_accepted_and_of_others_refused(
    tiny_model_folder: Path, tiny_model: LlamaForCausalLM, base: Path, tmp_path: Path
) -> None:
    export_gguf(tiny_model_folder, SET, tmp_path / "out.gguf", base=base)
    assert (tmp_path / "out.gguf").read_bytes() != base.read_bytes()
    with torch.no_grad():
        tiny_model.model.layers[1].self_attn.k_proj.weight[3] *= 1.001
    tiny_model.save_pretrained(tiny_model_folder)
    refused(tiny_model_folder, tmp_path / "other.gguf", "blk.1.attn_k.weight can't be made", base=base)


def test_of_a_model_that_transformers_does_not_know_nothing_is_said(
    tiny_model_folder: Path, base: Path, tmp_path: Path
) -> None:
    edit(tiny_model_folder / "config.json", model_type="made-elsewhere")
    made_on = Provenance(model="another-model", weights_sha256="f" * 64)
    entries = FactorSet.of([SET.longest.replace(provenance=made_on)])
    assert export_gguf(tiny_model_folder, entries, tmp_path / "out.gguf", base=base).path.is_file()


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q5_1,
                                  gguf.GGMLQuantizationType.Q8_0])  # fmt: skip
def test_rounding_is_told_from_other_weights(kind: Any) -> None:
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
    with pytest.raises(ExportError, match=r"blk\.0\.attn_v\.weight can't be made"):
        export_gguf(tuned, entries, tmp_path / "other.gguf", base=base)


@pytest.mark.parametrize(
    ("factors", "mode", "said"),
    [
        (FACTORS.replace(num_start_tokens=4), "pinned", "n-hat 4"),
        (FACTORS.replace(rescale_factors=FACTORS.rescale_factors * 2), "pinned", "each layer"),
        (FACTORS.replace(target_length=WINDOW), "pinned", "nothing to ship"),
        (FACTORS, "both", "pinned, switching"),
        (FACTORS.replace(geometry=dataclasses.replace(GEOMETRY, rope_theta=625.0)), "pinned", "rope_theta"),
        (FACTORS.replace(geometry=dataclasses.replace(GEOMETRY, original_length=32)), "pinned", "is 32"),
    ],
)  # fmt: skip
def test_factors_that_it_cannot_hold_are_refused(
    base: Path, tmp_path: Path, factors: RescaleFactors, mode: Mode, said: str
) -> None:
    refused(base, tmp_path / "out.gguf", said, FactorSet.of([factors]), mode=mode)


def test_two_attention_factors_are_refused_when_switching(base: Path, tmp_path: Path) -> None:
    entries = FactorSet.of([entry(WINDOW, 1.0, 1.0), FACTORS])
    refused(base, tmp_path / "out.gguf", "one for both", entries, mode="switching")
    export_gguf(base, entries, tmp_path / "out.gguf")


def test_a_stated_window_that_is_wrong_is_corrected(base: Path, tmp_path: Path) -> None:
    other = changed(base, tmp_path / "other.gguf", metadata={"llama.context_length": whole(131072)})
    refused(other, tmp_path / "out.gguf", "original_length is 64, not 131072")
    export_gguf(other, SET, tmp_path / "out.gguf", original_length=WINDOW)


@pytest.mark.parametrize(
    "key",
    ["rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor",
     "rope.scaling.yarn_log_multiplier"],
)  # fmt: skip
def test_what_is_scaled_already_is_refused(base: Path, tmp_path: Path, key: str) -> None:
    value = text("yarn") if key.endswith("type") else Value(2.0, gguf.GGUFValueType.FLOAT32)
    refused(
        changed(base, tmp_path / "other.gguf", metadata={f"llama.{key}": value}),
        tmp_path / "o.gguf",
        "already",
    )


def test_what_llama_cpps_converter_leaves_of_a_tuned_checkpoint_gets_its_factors_back(
    base: Path, tmp_path: Path
) -> None:
    """As benchmarks/gguf_converter.py found: the name of the scaling, the long context, and no factors."""
    left = {"llama.rope.scaling.type": text("longrope"), "llama.context_length": whole(512)}
    converted = changed(base, tmp_path / "converted.gguf", metadata=left)
    written = read_gguf(export_gguf(converted, SET, tmp_path / "out.gguf").path)
    assert written.get("rope.scaling.original_context_length") == WINDOW
    assert factors_in(written, "long") == np.float32(FACTORS.rescale_factors[0]).tolist()


def test_factors_are_not_written_twice(base: Path, tmp_path: Path) -> None:
    once = export_gguf(base, SET, tmp_path / "once.gguf").path
    refused(once, tmp_path / "twice.gguf", "scaled already")


def test_llama_3_factors_inside_are_refused(base: Path, tmp_path: Path) -> None:
    more = (StoredTensor.of("rope_freqs.weight", np.ones(4, np.float32)),)
    refused(changed(base, tmp_path / "l3.gguf", tensors=more), tmp_path / "out.gguf", "rope_freqs.weight")


def test_no_scaling_by_name_is_no_scaling(base: Path, tmp_path: Path) -> None:
    none = changed(base, tmp_path / "none.gguf", metadata={"llama.rope.scaling.type": text("none")})
    written = read_gguf(export_gguf(none, SET, tmp_path / "out.gguf").path)
    assert written.get("rope.scaling.type") == "longrope"


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ("qwen2", "reads no rope factors"),
        ("gemma3", "reads no rope factors"),
        ("pangu-embedded", "without them"),
    ],
)
def test_architectures_that_ignore_factors_are_refused(
    base: Path, tmp_path: Path, architecture: str, said: str
) -> None:
    refused(renamed(base, tmp_path / "other.gguf", architecture), tmp_path / "out.gguf", said)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_that_read_factors_get_them(base: Path, tmp_path: Path, architecture: str) -> None:
    out = export_gguf(renamed(base, tmp_path / "o.gguf", architecture), SET, tmp_path / "out.gguf").path
    assert read_gguf(out).metadata[f"{architecture}.rope.scaling.type"].plain == "longrope"


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.3, 0.7, 0.9999])
def test_truncated_files_are_refused(base: Path, tmp_path: Path, part: float) -> None:
    content = base.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(len(content) * part)])
    refused(tmp_path / "cut.gguf", tmp_path / "out.gguf", "truncated")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda path: path.write_bytes(b"GGUF is not all there is to it" * 99), "can be read"),
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: changed(path, path, metadata={"general.type": text("adapter")}), "adapter"),
        (lambda path: changed(path, path, metadata={"split.count": whole(3)}), "one of 3 parts"),
        (lambda path: changed(path, path, metadata={"llama.block_count": whole(0)}), "block_count"),
    ],
)
def test_broken_files_are_refused(
    base: Path, tmp_path: Path, break_it: Callable[[Path], object], said: str
) -> None:
    break_it(base)
    refused(base, tmp_path / "out.gguf", said)


def test_an_output_that_exists_is_left_alone(base: Path, tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(ExportError, match="exists"):
        export_gguf(base, SET, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_a_full_disk_leaves_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", fail)
    refused(base, tmp_path / "out.gguf", "space")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "qwen3"}, "is a qwen3 model"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_hidden_layers": 3}, "lacks 9 of its weights"),
        ({"vocab_size": 100}, "config.json"),
        ({"hidden_size": 16}, "config.json"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers"),
    ],
)
def test_checkpoints_that_are_not_converted_are_refused(
    tiny_model_folder: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    edit(tiny_model_folder / "config.json", **change)
    refused(tiny_model_folder, tmp_path / "out.gguf", said)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
        {"pre_tokenizer": None},
        {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}},
    ],
)
def test_tokenizers_that_llama_cpp_would_split_otherwise_are_refused(
    tiny_model_folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    edit(tiny_model_folder / "tokenizer.json", **change)
    refused(tiny_model_folder, tmp_path / "out.gguf", "can't be named to llama.cpp")


def test_what_is_no_checkpoint_is_refused(tiny_model_folder: Path, base: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nothing", tmp_path / "out.gguf", "no config.json")
    refused(base, tmp_path / "out.gguf", "leave --gguf out", base=base)
    (tiny_model_folder / "tokenizer.json").unlink()
    refused(tiny_model_folder, tmp_path / "out.gguf", "no tokenizer.json")
    (tiny_model_folder / "model.safetensors").unlink()
    refused(tiny_model_folder, tmp_path / "out.gguf", "no safetensors weights", base=base)


@pytest.mark.parametrize(
    "key",
    ["num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias",
     "head_dim", "bos_token_id", "eos_token_id", "rope_parameters", "max_position_embeddings"],
)  # fmt: skip
def test_a_default_that_is_left_out_is_transformers_own(
    tiny_tokenizer: Any, tmp_path: Path, key: str
) -> None:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    folder = tmp_path / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    write_base_gguf(folder, tmp_path / "stated.gguf")
    stated = json.loads((folder / "config.json").read_text())
    del stated[key]
    (folder / "config.json").write_text(json.dumps(stated))
    write_base_gguf(folder, tmp_path / "left_out.gguf")
    assert raw(tmp_path / "left_out.gguf") == raw(tmp_path / "stated.gguf")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "null", '{"model":' * 9999, '{"model": {"type": "BPE"}}', "\udcff",
     '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [3]}}',
     '{"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}}'],
)  # fmt: skip
def test_a_broken_tokenizer_is_refused(tiny_model_folder: Path, tmp_path: Path, content: str) -> None:
    (tiny_model_folder / "tokenizer.json").write_text(content, errors="surrogateescape")
    refused(tiny_model_folder, tmp_path / "out.gguf", "tokenizer.json")


def test_tokens_beyond_the_embeddings_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(tiny_model_folder)
    refused(tiny_model_folder, tmp_path / "out.gguf", "token with the number")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer_config.json", "{", "JSON"),
        ("tokenizer_config.json", '{"chat_template": "\\ud800"}', "surrogate"),
        ("chat_template.jinja", "\udcff", "UTF-8"),
    ],
)
def test_a_broken_chat_template_is_refused(
    tiny_model_folder: Path, tmp_path: Path, file: str, content: str, said: str
) -> None:
    (tiny_model_folder / file).write_text(content, errors="surrogateescape")
    refused(tiny_model_folder, tmp_path / "out.gguf", said)


@pytest.mark.parametrize("number", [-1, 5000, 2**40])
def test_special_tokens_that_are_none_are_left_out(
    tiny_model_folder: Path, tmp_path: Path, number: int
) -> None:
    """Llama's first configurations pad with token -1."""
    edit(tiny_model_folder / "config.json", pad_token_id=number)
    write_base_gguf(tiny_model_folder, tmp_path / "out.gguf")
    assert "tokenizer.ggml.padding_token_id" not in read_gguf(tmp_path / "out.gguf").metadata


@pytest.mark.parametrize(
    ("stated", "suffix", "dtype"),
    [
        ({"quant_method": "gptq", "bits": 4}, ".qweight", torch.int32),
        ({"quant_method": "fp8"}, ".weight", torch.float8_e4m3fn),
        (None, ".weight", torch.float8_e4m3fn),
    ],
)
@pytest.mark.parametrize("with_base", [False, True])
def test_quantised_weights_are_the_reason(
    tiny_model_folder: Path, base: Path, tmp_path: Path, stated: Any, suffix: str, dtype: Any, with_base: bool
) -> None:
    tensors = load_file(tiny_model_folder / "model.safetensors")
    packed = {
        name.replace(".weight", suffix) if "proj" in name else name: t.to(dtype) if "proj" in name else t
        for name, t in tensors.items()
    }
    save_file(packed, tiny_model_folder / "model.safetensors", metadata={"format": "pt"})
    edit(tiny_model_folder / "config.json", quantization_config=stated)
    refused(tiny_model_folder, tmp_path / "out.gguf", "quantised", base=base if with_base else None)


def test_an_adapter_names_its_base(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tiny_model_folder / "config.json").unlink()
    (tiny_model_folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    refused(tiny_model_folder, tmp_path / "out.gguf", "owner/base")


@pytest.mark.parametrize(
    "key", ["attention.head_count", "rope.freq_base", "attention.key_length", "block_count"]
)
@pytest.mark.parametrize(
    "value",
    [text("four"), Value(True, gguf.GGUFValueType.BOOL), Value(-4, gguf.GGUFValueType.INT32),
     Value([2, 2], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32)],
    ids=["text", "bool", "negative", "list"],
)  # fmt: skip
def test_sizes_of_another_type_are_refused(
    tiny_model_folder: Path, base: Path, tmp_path: Path, key: str, value: Value
) -> None:
    other = changed(base, tmp_path / "other.gguf", metadata={f"llama.{key}": value})
    refused(tiny_model_folder, tmp_path / "out.gguf", "heads|must be|must have", base=other)
    if key != "attention.head_count":  # of no matter where the size of a head is stated
        refused(other, tmp_path / "out.gguf", "must be|must have")


def refused(
    source: Path,
    out: Path,
    said: str,
    entries: FactorSet = SET,
    mode: Mode = "pinned",
    base: Path | None = None,
) -> None:
    """One line, and nothing is left, half-written or whole."""
    before = sorted(out.parent.iterdir())
    with pytest.raises((ExportError, ModelError), match=said) as caught:
        export_gguf(source, entries, out, mode=mode, base=base)
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.iterdir()) == before


def entry(target: int, factor: float, attention_factor: float) -> RescaleFactors:
    return RescaleFactors.single(
        geometry=GEOMETRY,
        target_length=target,
        rescale_factors=[factor] * GEOMETRY.num_pairs,
        attention_factor=attention_factor,
    )


def factors_in(content: GgufContent, which: str) -> Any:
    tensor = content.tensor(f"rope_factors_{which}.weight")
    assert tensor is not None
    return tensor.load().tolist()


def raw(path: Path) -> tuple[dict[str, bytes], dict[str, tuple[Any, ...]]]:
    """Every key's bytes, type included, and every tensor's kind, shape, place and bytes; read without us."""
    reader = gguf.GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    return (
        {key: b"".join(part.tobytes() for part in field.parts) for key, field in fields.items()},
        {
            t.name: (t.tensor_type, t.shape.tolist(), t.data_offset - reader.data_offset, t.data.tobytes())
            for t in reader.tensors
        },
    )


def changed(
    source: Path, out: Path, metadata: dict[str, Value] | None = None, tensors: tuple[StoredTensor, ...] = ()
) -> Path:
    content = read_gguf(source)
    loaded = tuple(in_memory(tensor) for tensor in content.tensors)  # `out` may be `source`
    write_gguf(
        dataclasses.replace(
            content, metadata={**content.metadata, **(metadata or {})}, tensors=(*loaded, *tensors)
        ),
        out,
    )
    return out


def in_memory(tensor: StoredTensor) -> StoredTensor:
    values = tensor.load().copy()
    return dataclasses.replace(tensor, load=lambda: values)


def renamed(source: Path, out: Path, architecture: str) -> Path:
    content = read_gguf(source)
    keys = {key.replace("llama.", f"{architecture}.", 1): value for key, value in content.metadata.items()}
    write_gguf(dataclasses.replace(content, architecture=architecture, metadata=keys), out)
    return out


def rounded(tensor: StoredTensor, kind: Any) -> StoredTensor:
    packed = gguf.quants.quantize(tensor.load(), kind)
    return StoredTensor(
        name=tensor.name, kind=kind, shape=packed.shape, dtype=packed.dtype, load=lambda: packed
    )


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
