"""Loading: every way to name a model, what is recorded, and one clear line for what can't be loaded."""

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ropewalk.errors import FactorsError, ModelError
from ropewalk.export.gguf import export_gguf
from ropewalk.factor_set import FactorSet
from ropewalk.factors import Provenance
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.models.scale_model import SCALE_MODEL
from ropewalk.models.weights import OtherWeightsWarning, hash_weights
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
    with loaded.installed(factors):
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
        with loaded.installed(scheme_factors("yarn", loaded.geometry, 64)):
            during = loaded.model(ids).logits
        with loaded.installed(None):
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
    with pytest.raises(FactorsError, match="original_length is 16, not 32"):
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
    with pytest.raises(ModelError, match=r"scaled already \(it holds rope_factors_long.weight\)"):
        load_model(tmp_path / "scaled.gguf")


@pytest.mark.parametrize("name", ["./no/such/folder", "a/b/c", "missing.gguf", "", "../x y"])
def test_what_does_not_exist_is_said(name: str) -> None:
    refused(name, "does not exist")


def test_a_hub_name_without_network_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("no-such-owner/no-such-model", "hub can't be reached")


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    refused(tmp_path, "no config.json")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path, "can't be loaded")


def test_a_file_is_no_model(folder: Path) -> None:
    refused(folder / "config.json", "is a file")


def test_what_is_not_causal_is_refused_before_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 32}))
    refused(tmp_path, "vit model")


def test_a_model_without_rotary_is_refused(tmp_path: Path) -> None:
    BertConfig(num_hidden_layers=1, is_decoder=True).save_pretrained(tmp_path)
    refused(tmp_path, "rotary")


def test_pickles_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "pickle")
    (copy / "pytorch_model.bin").unlink()
    refused(copy, "no weights")


def test_a_pickle_renamed_to_safetensors_is_refused(copy: Path) -> None:
    torch.save({"weight": torch.ones(3)}, copy / "model.safetensors")
    refused(copy, "can't be loaded")


def test_truncated_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(copy, "can't be loaded")


def test_missing_weights_are_not_filled_with_chance(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    refused(copy, "lacks 9 of its weights")


def test_a_missing_tokenizer_is_said(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    refused(copy, "can't be loaded")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("device", "abacus", "abacus"), ("device", "cuda:77", "cuda:77"), ("dtype", "int4", "float32, bfloat16"),
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


def test_a_tokenizer_is_read_without_weights(tiny_model_folder: Path) -> None:
    (tiny_model_folder / "model.safetensors").unlink()

    assert load_tokenizer(tiny_model_folder).bos_token_id == 0
    assert load_tokenizer(SCALE_MODEL).eos_token_id == 1


def test_a_tokenizer_that_is_not_there_is_one_line(tiny_model_folder: Path, tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "missing", ""):
        with pytest.raises(ModelError) as caught:
            load_tokenizer(name)
        assert "\n" not in str(caught.value)
    for file in tiny_model_folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="can't be loaded"):
        load_tokenizer(tiny_model_folder)
