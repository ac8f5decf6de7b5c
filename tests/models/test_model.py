"""Loading: every way to name a model, what is recorded, and one clear line for what can't be loaded."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    BertConfig,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    modeling_utils,
)
from transformers.integrations import hub_kernels

from ropewalk.errors import FactorsError, ModelError
from ropewalk.export.gguf.export import export_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.models.fingerprint import OtherWeightsWarning, hash_stored_weights, hash_weights
from ropewalk.models.model import load_model
from ropewalk.models.model_files import read_config
from ropewalk.models.untrusted_config import without_chosen_code
from ropewalk.models.weight_files import weight_files
from ropewalk.rope.schemes import scheme_factors

WINDOW, NUM_HEADS = 32, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a tokenizer of bytes and one merge."""
    path = tmp_path_factory.mktemp("tiny-llama")
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", *characters, "ab"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(path)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS, vocab_size=len(vocabulary), max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 625.0}, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same, to be broken."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_folder_is_loaded_and_says_where_it_runs(folder: Path) -> None:
    loaded = load_model(folder)
    assert loaded.geometry.original_length == WINDOW
    assert list(loaded.where.values()) == ["cpu", "float32", "sdpa", None]
    assert loaded.name == str(folder)
    assert loaded.revision is None
    assert not loaded.model.training
    assert loaded.tokenizer.bos_token_id == 0


def test_the_window_can_be_corrected(folder: Path) -> None:
    loaded = load_model(folder, original_length=16)
    assert loaded.geometry.original_length == 16
    factors = scheme_factors("yarn", loaded.geometry, 64)
    with loaded.using(factors):
        loaded.model(torch.zeros(1, 40, dtype=torch.long))


def test_attention_and_dtype_are_what_was_asked(folder: Path) -> None:
    loaded = load_model(folder, dtype="bfloat16", attn_implementation="eager")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.where["dtype"] == "bfloat16"
    assert loaded.model.config._attn_implementation == loaded.where["attn_implementation"] == "eager"


def test_installed_factors_act_and_leave_no_trace(folder: Path) -> None:
    loaded = load_model(folder)
    ids = torch.arange(48)[None]
    with torch.no_grad():
        before = loaded.model(ids).logits
        with loaded.using(scheme_factors("yarn", loaded.geometry, 64)):
            during = loaded.model(ids).logits
        with loaded.using(None):
            untouched = loaded.model(ids).logits
    assert not torch.equal(before, during)
    assert torch.equal(before, untouched)


def test_hash_agrees_between_precisions_and_differs_between_weights(folder: Path) -> None:
    loaded = load_model(folder)
    assert load_model(folder, dtype="bfloat16").weights_sha256 == loaded.weights_sha256
    with torch.no_grad():
        loaded.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    assert hash_weights(loaded.model) != loaded.weights_sha256


def test_factors_of_other_weights_are_warned_of_naming_both(folder: Path) -> None:
    loaded = load_model(folder)
    factors = scheme_factors("yarn", loaded.geometry, 64)
    same = factors.replace(provenance=Provenance(model="a", weights_sha256=loaded.weights_sha256))
    other = factors.replace(provenance=Provenance(model="another-model", weights_sha256="f" * 64))
    loaded.warn_if_other_weights(factors)  # unknown: nothing to say
    loaded.warn_if_other_weights(same)
    with pytest.warns(OtherWeightsWarning, match="another-model") as caught:
        loaded.warn_if_other_weights(other)
    assert str(folder) in str(caught[0].message)


def test_factors_of_another_geometry_are_refused(folder: Path) -> None:
    loaded = load_model(folder)
    factors = scheme_factors("yarn", load_model(folder, original_length=16).geometry, 64)
    with pytest.raises(FactorsError, match="original_length"):
        loaded.install(factors)


def test_a_gguf_file_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(folder)
    file = write_gguf(loaded.model, loaded.tokenizer, tmp_path / "tiny.gguf")
    from_gguf = load_model(file)
    assert from_gguf.geometry == loaded.geometry
    assert from_gguf.weights_sha256 == loaded.weights_sha256
    assert from_gguf.tokenizer.bos_token_id == 0
    ids = from_gguf.tokenizer("def tab(x):", return_tensors="pt", add_special_tokens=False).input_ids
    assert ids.tolist() == [loaded.tokenizer("def tab(x):", add_special_tokens=False).input_ids]
    with torch.no_grad():
        torch.testing.assert_close(from_gguf.model(ids).logits, loaded.model(ids).logits)


def test_a_gguf_file_with_factors_is_not_read_without_them(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(folder)
    plain = write_gguf(loaded.model, loaded.tokenizer, tmp_path / "tiny.gguf")
    factors = FactorSet(entries=(scheme_factors("yarn", load_model(plain).geometry, 64),))
    export_gguf(str(plain), factors, tmp_path / "scaled.gguf")
    with pytest.raises(ModelError, match="rope_factors_long"):
        load_model(tmp_path / "scaled.gguf")


@pytest.mark.parametrize("name", ["./no/such/folder", "a/b/c", "missing.gguf", "", "../x y"])
def test_what_does_not_exist_is_said(name: str) -> None:
    refused(name, "exist")


def test_a_hub_name_without_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("no-such-owner/no-such-model", "hub")


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    refused(tmp_path, "config.json")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "config|load")


def test_a_file_is_no_model(folder: Path) -> None:
    refused(folder / "config.json", "file")


def test_what_is_not_causal_is_refused_before_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 32}))
    refused(tmp_path, "vit")


def test_a_model_without_rotary_is_refused(tmp_path: Path) -> None:
    BertConfig(num_hidden_layers=1, is_decoder=True).save_pretrained(tmp_path)
    refused(tmp_path, "rotary")


def test_pickles_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "pickle")
    (copy / "pytorch_model.bin").unlink()
    refused(copy, "safetensors")


def test_a_pickle_renamed_to_safetensors_is_refused(copy: Path) -> None:
    torch.save({"weight": torch.ones(3)}, copy / "model.safetensors")
    refused(copy, "safetensors")


def test_truncated_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(copy, "safetensors")


def test_missing_weights_are_not_filled_with_chance(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused(copy, "9 of its weights")


def test_a_missing_tokenizer_is_said(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    refused(copy, "tokenizer")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("device", "abacus", "abacus"), ("device", "cuda:77", "cuda:77"), ("dtype", "int4", "bfloat16"),
     ("attn_implementation", "guess", "guess")],
)  # fmt: skip
def test_where_it_runs_must_exist(folder: Path, option: str, value: str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        load_model(folder, **{option: value})
    assert "\n" not in str(caught.value)


def refused(name: str | Path, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def write_gguf(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> Path:
    """The tiny Llama as llama.cpp's file, written by its own package."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_rope_dimension_count(config.hidden_size // NUM_HEADS)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(NUM_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(625.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:  # llama.cpp keeps the two dimensions of a pair together
            values = values.reshape(NUM_HEADS, 2, -1, config.hidden_size).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_tokenizer_that_is_not_there_is_one_line(tiny_model_folder: Path) -> None:
    for file in tiny_model_folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer") as caught:
        load_model(tiny_model_folder)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- what a folder says, and is not followed


def quantised(copy: Path, kind: str) -> None:
    """The tiny model as publishers of quantised ones store it."""
    tensors = load_file(copy / "model.safetensors")
    stored = {}
    for name, value in tensors.items():
        if kind == "plain" or "proj" not in name:
            stored[name] = value
        elif kind == "fp8":
            stored |= {name: value.to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(1, 1)}
        elif kind == "int8":
            stored[name] = value.to(torch.int8)
        else:
            stored |= {name.replace("weight", "qweight"): value.to(torch.int32)}
    save_file(stored, copy / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("stated", "kind", "said"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "plain", "fp8"),
        ({"quant_method": "awq", "bits": 4}, "int32", "awq"),
        ({"quant_method": "gptq", "bits": 4}, "int32", "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int8", "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "int8", "compressed-tensors"),
        ({"quant_method": "mxfp4"}, "plain", "mxfp4"),
        ({"quant_method": "owner/kernel:function"}, "plain", "owner/kernel"),
        ({"bits": 4}, "plain", "does not name"),
        (None, "fp8", "F8_E4M3|scale_inv"),
        (None, "int8", "I8"),
        (None, "int32", "qweight"),
    ],
)
def test_quantised_weights_are_named_whatever_this_machine_has_for_them(
    copy: Path, stated: object, kind: str, said: str
) -> None:
    edit(copy, quantization_config=stated)
    quantised(copy, kind)
    refused(copy, f"quantised .*({said})")


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transformers could fetch kernels from the hub, and did."""

    def fetch(*arguments: object, **_: object) -> None:
        raise AssertionError(f"code was fetched: {arguments}")

    for module in (hub_kernels, modeling_utils):
        monkeypatch.setattr(module, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel", fetch)
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", fetch)


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize(
    "key", ["_attn_implementation", "attn_implementation", "_attn_implementation_internal", "fusion_config",
            "_experts_implementation", "experts_implementation", "distributed_config", "custom_generate"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["owner/kernel:function", {"": "owner/kernel"}])
def test_a_configuration_chooses_no_code(folder: Path, copy: Path, key: str, value: object) -> None:
    edit(copy, **{key: value})
    loaded = load_model(copy)
    assert loaded.model.config._attn_implementation == loaded.where["attn_implementation"] == "sdpa"
    assert hash_stored_weights(read_config(copy), weight_files(copy, "")) == loaded.weights_sha256
    assert loaded.weights_sha256 == load_model(folder).weights_sha256
    assert load_model(copy, attn_implementation="eager").model.config._attn_implementation == "eager"


@pytest.mark.usefixtures("no_kernels")
def test_nor_does_a_configuration_inside_it(copy: Path) -> None:
    inner = json.loads((copy / "config.json").read_text())
    config = CONFIG_MAPPING["llava"].from_dict(
        {"text_config": inner, "_experts_implementation": "owner/kernel"}
    )
    config.text_config._attn_implementation = "owner/kernel:function"
    plain = without_chosen_code(config)
    assert plain.text_config._attn_implementation is plain._experts_implementation is None
    assert config.text_config._attn_implementation == "owner/kernel:function"  # a copy


def test_code_beside_a_model_is_not_run(copy: Path, tmp_path: Path) -> None:
    for name in ("configuration_own", "modeling_own", "tokenization_own", "custom_generate/generate"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    (copy / "training_args.bin").write_bytes(b"not read")
    edit(copy, auto_map={"AutoConfig": "configuration_own.C", "AutoModelForCausalLM": "modeling_own.M"})
    load_model(copy)
    edit(copy, "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokenization_own.T"]})
    load_model(copy)
    edit(copy, model_type="made-elsewhere")
    refused(copy, "trust-remote-code")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("weights", ["adapter_model.bin", "../other.safetensors", "other.safetensors"])
def test_other_weights_are_not_read_by_a_name_in_the_configuration(copy: Path, weights: str) -> None:
    edit(copy, transformers_weights=weights)
    refused(copy, "transformers_weights")


def test_an_adapter_is_no_model_and_its_base_is_named(copy: Path) -> None:
    (copy / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "owner/base", "peft_type": "LORA"}'
    )
    refused(copy, "adapter")  # beside a model, peft would put it in
    (copy / "config.json").unlink()
    refused(copy, "its base 'owner/base'")
    (copy / "adapter_config.json").write_text("[]")
    refused(copy, "its base, or")


def test_an_adapter_beside_a_gguf_file_is_not_followed(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(folder)
    file = write_gguf(loaded.model, loaded.tokenizer, tmp_path / "tiny.gguf")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/another"}')
    refused(file, "adapter")


def test_older_phi_3_is_loaded_as_it_is_converted(tiny_tokenizer: Any, tmp_path: Path) -> None:
    """Its scaling is called `su` there, which transformers no longer reads."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    longrope = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = Phi3Config(
        **sizes, vocab_size=len(tiny_tokenizer), max_position_embeddings=128, pad_token_id=0,
        original_max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    Phi3ForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    edit(tmp_path, rope_parameters=None, rope_theta=1e4, rope_scaling={"type": "su", **longrope})
    loaded = load_model(tmp_path)
    assert loaded.description.own is not None
    assert loaded.description.own.rescale_factors == ((2.0,) * 8,)
    assert loaded.description.own.target_length == 128
    assert loaded.tokenizer.bos_token_id == 0
    edit(tmp_path, rope_scaling={"type": "longrope", **longrope})
    ids = torch.arange(100)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, load_model(tmp_path).model(ids).logits)


# ---------------------------------------------------------------- tokenizers


def test_a_tokenizer_of_nothing_is_none(copy: Path) -> None:
    """transformers makes that of some families out of nothing."""
    for file in copy.glob("tokenizer*"):
        file.unlink()
    edit(copy, model_type="qwen2")
    assert len(AutoTokenizer.from_pretrained(copy)) == 1
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(copy)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"a":' * 5000, '{"model": {"type": "BPE"}}', "\udcff"])
def test_a_broken_tokenizer_is_one_line(copy: Path, content: str) -> None:
    (copy / "tokenizer.json").write_text(content, errors="surrogateescape")
    refused(copy, "can't be loaded|nested")


def test_tokens_without_an_embedding_are_refused_where_they_are_used(copy: Path, folder: Path) -> None:
    tokenizer = load_model(copy).tokenizer
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(copy)
    loaded = load_model(copy)  # such tokens are common, and most texts have none
    assert loaded.weights_sha256 == load_model(folder).weights_sha256
    loaded.model(loaded.tokenizer("some text", return_tensors="pt").input_ids)
    with pytest.raises(ModelError, match="embeddings"):
        loaded.model(loaded.tokenizer("some <one more> text", return_tensors="pt").input_ids)


def test_a_vocabulary_beyond_the_embeddings_is_refused(copy: Path, folder: Path) -> None:
    model = load_model(folder).model
    model.resize_token_embeddings(100, mean_resizing=False)
    model.save_pretrained(copy)
    refused(copy, "embeddings")


# ---------------------------------------------------------------- reasons


def test_a_family_that_wants_eager_attention_says_so(tiny_tokenizer: Any, tmp_path: Path) -> None:
    config = GptOssConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_local_experts=2, num_experts_per_tok=1,
        max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    refused(tmp_path, "eager")
    assert load_model(tmp_path, attn_implementation="eager").where["attn_implementation"] == "eager"


def test_a_name_does_not_make_the_reason(copy: Path) -> None:
    """The hub is no reason where a folder is named, whatever its name."""
    broken = copy.rename(copy.with_name("gated-offline-Connection"))
    edit(broken, num_key_value_heads="two")
    with pytest.raises(ModelError) as caught:
        load_model(broken)
    assert "hub" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "reason"), [(4096, "lacks most of its weights"), (10**9, "num_hidden_layers")]
)
def test_layers_that_are_not_stored_are_not_built(copy: Path, layers: int, reason: str) -> None:
    edit(copy, num_hidden_layers=layers, layer_types=None)
    started = time.process_time()
    refused(copy, reason)
    assert time.process_time() - started < 5


def test_weights_of_other_shapes_than_stated(copy: Path) -> None:
    edit(copy, intermediate_size=64)
    refused(copy, "shapes")


# ---------------------------------------------------------------- the hub


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model as owner/name in the hub's cache: links into its blobs. The hub is not reached."""
    repository = tmp_path / "hub" / "models--owner--name"
    files = repository / "snapshots" / COMMIT
    (repository / "blobs").mkdir(parents=True)
    files.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, repository / "blobs" / str(number))
        (files / file.name).symlink_to(Path("../../blobs") / str(number))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return files


def test_a_model_on_the_hub_is_of_one_commit(snapshot: Path, folder: Path) -> None:
    loaded = load_model("owner/name")
    assert loaded.revision == loaded.where["revision"] == COMMIT
    assert loaded.weights_sha256 == load_model(folder).weights_sha256
    assert load_model("owner/name", revision=COMMIT).revision == COMMIT


@pytest.mark.parametrize("named", ["a.bin", "../other.safetensors", "/etc/other.safetensors"])
def test_an_index_on_the_hub_names_no_pickle(snapshot: Path, named: str) -> None:
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"model.norm.weight": named}})
    )
    refused("owner/name", "index")


def test_an_adapter_on_the_hub_is_not_followed_to_its_base(snapshot: Path) -> None:
    (snapshot / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/another"}')
    refused("owner/name", "adapter")


def edit(folder: Path, file: str = "config.json", **changes: object) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
