"""What an exported folder holds, and what is refused before anything is written."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_model
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from ropewalk.errors import ExportError, FactorsError, ModelError
from ropewalk.export import keep_keys, rewrite_keys
from ropewalk.export.gguf.export import export_gguf
from ropewalk.export.hf import export_hf
from ropewalk.export.settings import ExportSettings
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.models.fingerprint import OtherWeightsWarning
from ropewalk.models.model import load_model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.store import hash_file

GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=100.0, original_length=64, num_layers=2)
COMPUTED = longrope_attention_factor(4, 64)
LONG = scheme_factors("yarn", GEOMETRY, 256).replace(attention_factor=COMPUTED)
SHORT = scheme_factors("ntk:factor=1.5", GEOMETRY, 64).replace(attention_factor=COMPUTED)
MIDDLE = LONG.replace(target_length=128)
ONE = FactorSet.of([LONG])
THREE = FactorSet.of([SHORT, MIDDLE, LONG])
OTHER = FactorSet.of([LONG.replace(attention_factor=1.05)])  # engines compute another one
SWITCHING = ExportSettings(mode="switching")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def model(tiny_model_folder):
    """A folder as people have them: with a chat template, a pickle and a trainer's leavings."""
    (tiny_model_folder / "chat_template.jinja").write_text("{{ messages }}")
    (tiny_model_folder / "training_args.bin").write_bytes(b"a pickle")
    (tiny_model_folder / "trainer_state.json").write_text("{}")
    (tiny_model_folder / "generation_config.json").write_text('{"max_length": 64, "top_p": 0.9}')
    (tiny_model_folder / "model.safetensors").chmod(0o644)  # as from the hub; safetensors writes 0600
    return tiny_model_folder


def test_weights_are_not_loaded_and_have_the_same_bytes(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ropewalk.export.hf.load_model", None)
    exported = export_hf(str(model), ONE, tmp_path / "out")
    assert exported.files["model.safetensors"] == hash_file(model / "model.safetensors")
    assert (tmp_path / "out" / "model.safetensors").samefile(model / "model.safetensors")


@pytest.mark.parametrize(
    ("source_mode", "settings"),
    [
        (0o644, ExportSettings()),
        (0o600, ExportSettings()),
        (0o600, ExportSettings(fold_attention_factor=True)),
    ],
    ids=["public", "private", "folded"],
)
def test_another_user_can_read_all_of_an_export(model, tmp_path, source_mode, settings):
    (model / "model.safetensors").chmod(source_mode)
    before = os.umask(0o022)
    try:
        export_hf(
            str(model),
            FactorSet.of([LONG.replace(attention_factor=1.05)]),
            tmp_path / "out",
            settings=settings,
        )
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*")} == {0o644}
    assert (model / "model.safetensors").stat().st_mode & 0o777 == source_mode


def test_weights_are_copied_on_request(model, tmp_path):
    export_hf(str(model), ONE, tmp_path / "out", settings=ExportSettings(copy_weights=True))
    assert not (tmp_path / "out" / "model.safetensors").samefile(model / "model.safetensors")
    assert hash_file(tmp_path / "out" / "model.safetensors") == hash_file(model / "model.safetensors")


def test_what_is_taken_along(model, tmp_path):
    export_hf(str(model), ONE, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {
        "README.md", "config.json", "ropewalk.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "generation_config.json", "chat_template.jinja",
    }  # fmt: skip
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 256
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {
        "max_length": 256,
        "top_p": 0.9,
    }
    assert not (tmp_path / "out" / "config.json").samefile(model / "config.json")


def test_both_forms_of_a_pinned_configuration(model, tmp_path):
    export_hf(str(model), ONE, tmp_path / "out")
    config = config_of(tmp_path / "out")
    scaling = config["rope_scaling"]
    assert scaling == config["rope_parameters"]
    assert scaling["rope_type"] == scaling["type"] == "longrope"
    assert scaling["short_factor"] == scaling["long_factor"] == list(LONG.rescale_factors[0])
    assert config["rope_theta"] == scaling["rope_theta"] == 100.0
    assert config["max_position_embeddings"] == 256
    assert config["original_max_position_embeddings"] == scaling["original_max_position_embeddings"] == 64
    assert scaling["factor"] == 4.0
    assert "long_mscale" not in scaling


def test_switching_takes_the_windows_entry_and_names_what_it_leaves_out(model, tmp_path):
    exported = export_hf(str(model), THREE, tmp_path / "out", settings=SWITCHING)
    scaling = config_of(tmp_path / "out")["rope_scaling"]
    assert scaling["short_factor"] == list(SHORT.rescale_factors[0])
    assert scaling["long_factor"] == list(LONG.rescale_factors[0])
    assert [entry.what for entry in exported.dropped] == ["the entry for 128 tokens"]
    assert "the entry for 128 tokens" in (tmp_path / "out" / "README.md").read_text()


def test_an_attention_factor_that_engines_do_not_compute_is_written_for_vllm_and_others_are_named(
    model, tmp_path
):
    exported = export_hf(str(model), FactorSet.of([LONG.replace(attention_factor=1.05)]), tmp_path / "out")
    scaling = config_of(tmp_path / "out")["rope_scaling"]
    assert scaling["attention_factor"] == scaling["short_mscale"] == scaling["long_mscale"] == 1.05
    wrong = {note.engine for note in exported.engines if not note.is_served}
    assert wrong == {"mlx-lm", "tensorrt-llm", "llama.cpp"}


@pytest.mark.parametrize(
    ("factor_set", "settings", "words"),
    [
        (ONE, SWITCHING, "64 tokens"),
        (FactorSet.of([LONG.replace(num_start_tokens=4)]), ExportSettings(), "--with-runtime"),
        (FactorSet.of([SHORT.replace(attention_factor=1.0), LONG]), SWITCHING, "attention factor"),
        (FactorSet.of([LONG.replace(rescale_factors=LONG.rescale_factors * 2)]), ExportSettings(), "layer"),
        (FactorSet.of([SHORT]), ExportSettings(), "window"),
        (THREE, ExportSettings(mode="switching", serve_with="sglang"), "sglang"),
        (THREE, ExportSettings(serve_with="ollama"), "'ollama'"),
        (OTHER, ExportSettings(serve_with="mlx-lm", fold_attention_factor=False), "factor"),
        (OTHER, ExportSettings(serve_with="mlx-lm", with_runtime=True), "longrope"),
        (ONE, ExportSettings(fold_attention_factor=True, with_runtime=True), "--with-runtime"),
    ],
)  # fmt: skip
def test_what_a_configuration_can_not_hold_is_refused(model, tmp_path, factor_set, settings, words):
    with pytest.raises(ExportError, match=words):
        export_hf(str(model), factor_set, tmp_path / "deep" / "out", settings=settings)
    assert not (tmp_path / "deep").exists()


def test_two_attention_factors_are_written_for_vllm_alone(model, tmp_path):
    factor_set = FactorSet.of([SHORT.replace(attention_factor=1.0), LONG])
    settings = ExportSettings(mode="switching", serve_with="vllm")
    exported = export_hf(str(model), factor_set, tmp_path / "out", settings=settings)
    scaling = config_of(tmp_path / "out")["rope_scaling"]
    assert (scaling["short_mscale"], scaling["long_mscale"]) == (1.0, COMPUTED)
    assert "transformers" in {note.engine for note in exported.engines if not note.is_served}


def test_start_tokens_are_carried_for_the_runtime(model, tmp_path):
    factor_set = FactorSet.of([SHORT, LONG.replace(num_start_tokens=4)])
    settings = ExportSettings(with_runtime=True)
    exported = export_hf(str(model), factor_set, tmp_path / "out", settings=settings)
    assert FactorSet.load(tmp_path / "out" / "factors.json") == factor_set
    notes = {note.engine: note for note in exported.engines}
    assert notes["ropewalk"].is_served
    assert not notes["transformers"].is_served
    assert exported.dropped == ()


def test_a_source_that_is_no_whole_checkpoint(model, tmp_path):
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="safetensors"):
        export_hf(str(model), ONE, tmp_path / "out")
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        export_hf(str(model), ONE, tmp_path / "out")
    for name in ("../gone.safetensors", "gone.safetensors", "gone.bin", "a/gone.safetensors", 3):
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ModelError, match=r"gone|3"):
            export_hf(str(model), ONE, tmp_path / "out")
    for content in ("{}", "[]", '{"weight_map": []}', '{"weight_map": {}}'):
        (model / "model.safetensors.index.json").write_text(content)
        with pytest.raises(ModelError, match="index"):
            export_hf(str(model), ONE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def shard(folder):
    """The same weights in two files with an index, beside the single one."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


def test_weights_in_the_other_format_are_left_out_and_named(model, tmp_path):
    for name in ("consolidated.safetensors", "consolidated-00001-of-00001.safetensors"):
        (model / name).write_bytes((model / "model.safetensors").read_bytes())
    for name in ("consolidated.safetensors.index.json", "model.safetensors.index.fp16.json"):
        (model / name).write_text("{}")
    (model / "params.json").write_text('{"dim": 32}')
    exported = export_hf(str(model), ONE, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {name for name in found if "consolidated" in name or "index" in name}
    assert not (tmp_path / "out" / "params.json").exists()
    dropped = {entry.what for entry in exported.dropped}
    assert {"params.json", "consolidated.safetensors"} <= dropped
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="consolidated"):
        export_hf(str(model), ONE, tmp_path / "other")


@pytest.mark.parametrize("has_single", [True, False])
def test_weights_are_those_that_transformers_reads(model, tmp_path, has_single):
    shard(model)
    if not has_single:
        (model / "model.safetensors").unlink()
    export_hf(str(model), ONE, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").glob("model*")}
    single = {"model.safetensors"}
    assert found == (single if has_single else {path.name for path in model.glob("model*")})
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_folded_model_in_shards_has_its_index(model, tmp_path):
    shard(model)
    (model / "model.safetensors").unlink()
    ours = FactorSet.of([LONG.replace(attention_factor=1.05)])
    export_hf(str(model), ours, tmp_path / "out", settings=ExportSettings(fold_attention_factor=True))
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_a_folder_with_a_model_and_an_adapter_is_refused(model, tmp_path):
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/other"}')
    with pytest.raises(ExportError, match="adapter"):
        export_hf(str(model), ONE, tmp_path / "out")


def test_what_engines_would_follow_instead_of_the_factors_is_left_out_of_the_configuration(model, tmp_path):
    config = config_of(model)
    config |= {
        "dual_chunk_attention_config": {"chunk_size": 32, "local_size": 8},
        "auto_map": {"AutoModelForCausalLM": "somebody/other--modeling.Model"},
    }
    (model / "config.json").write_text(json.dumps(config))
    exported = export_hf(str(model), ONE, tmp_path / "out")
    assert not {"dual_chunk_attention_config", "auto_map"} & config_of(tmp_path / "out").keys()
    assert {entry.what for entry in exported.dropped} == {"dual_chunk_attention_config", "auto_map"}


def test_every_length_becomes_the_target(model, tmp_path):
    lengths = {"model_max_length": 2048, "max_sequence_length": 64, "seq_length": 64, "n_positions": 64}
    (model / "config.json").write_text(json.dumps({**config_of(model), **lengths}))
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": false}')
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    truncation = {"direction": "Right", "max_length": 64, "strategy": "LongestFirst", "stride": 0}
    (model / "tokenizer.json").write_text(json.dumps({**tokenizer, "truncation": truncation}))
    export_hf(str(model), ONE, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert {config[name] for name in (*lengths, "max_position_embeddings")} == {256}
    assert json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())["max_seq_length"] == 256
    given = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert len(given.encode("x" * 300).ids) == 256


def test_factors_for_another_model_and_an_output_that_exists(model, tmp_path):
    other = scheme_factors("yarn", RopeGeometry(**{**GEOMETRY.as_dict(), "rope_theta": 625.0}), 256)
    with pytest.raises(FactorsError, match="rope_theta"):
        export_hf(str(model), FactorSet.of([other]), tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists"):
        export_hf(str(model), ONE, tmp_path / "out")


def test_a_save_by_transformers_5_loses_keys_and_both_ways_put_them_back(model, tmp_path):
    out, saved = tmp_path / "out", tmp_path / "saved"
    export_hf(str(model), THREE, out, settings=SWITCHING)
    wanted = {name: config_of(out)[name] for name in ("rope_scaling", "rope_theta", "rope_parameters")}
    loaded = AutoModelForCausalLM.from_pretrained(out)
    loaded.save_pretrained(saved)
    assert not {"rope_scaling", "rope_theta"} & set(config_of(saved))  # the fault that is repaired
    assert rewrite_keys(saved)
    assert not rewrite_keys(saved)
    assert {name: config_of(saved)[name] for name in wanted} == wanted
    keep_keys(loaded)
    loaded.save_pretrained(tmp_path / "kept")
    assert {name: config_of(tmp_path / "kept")[name] for name in wanted} == wanted


def test_folding_gives_equal_logits_and_changes_queries_alone(model, tmp_path):
    ours = LONG.replace(attention_factor=1.05)
    out = tmp_path / "out"
    export_hf(str(model), FactorSet.of([ours]), out, settings=ExportSettings(fold_attention_factor=True))
    before, after = load_file(model / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {name.split(".")[-2] for name in before if not before[name].equal(after[name])}
    assert changed == {"q_proj"}
    assert config_of(out)["rope_scaling"]["attention_factor"] == COMPUTED
    folded = json.loads((out / "ropewalk.json").read_text())["folded"]
    assert folded["logit_difference"] < 2e-5
    assert folded["scale"] == pytest.approx((1.05 / COMPUTED) ** 2)


@pytest.mark.parametrize("engine", ["any", "transformers", "transformers4", "vllm", "sglang"])
def test_for_engines_that_read_an_attention_factor_weights_are_linked(model, tmp_path, engine):
    exported = export_hf(str(model), OTHER, tmp_path / "out", settings=ExportSettings(serve_with=engine))
    assert exported.query_scale is None
    assert (tmp_path / "out" / "model.safetensors").samefile(model / "model.safetensors")
    assert config_of(tmp_path / "out")["rope_scaling"]["attention_factor"] == 1.05


def test_for_an_engine_that_computes_another_attention_factor_it_is_folded_without_a_request(model, tmp_path):
    exported = export_hf(str(model), OTHER, tmp_path / "out", settings=ExportSettings(serve_with="mlx-lm"))
    assert exported.query_scale == pytest.approx((1.05 / COMPUTED) ** 2)
    assert {note.engine: note.is_served for note in exported.engines}["mlx-lm"]
    assert config_of(tmp_path / "out")["rope_scaling"]["attention_factor"] == COMPUTED
    assert "multiplied by" in (tmp_path / "out" / "README.md").read_text()
    plain = export_hf(str(model), ONE, tmp_path / "plain", settings=ExportSettings(serve_with="mlx-lm"))
    assert plain.query_scale is None


def test_folded_weights_are_right_with_short_and_with_long_factors(model, tmp_path):
    """The factor acts at every length, as does the one that an engine computes."""
    entries = [entry.replace(attention_factor=1.05) for entry in THREE.entries]
    settings = ExportSettings(mode="switching", fold_attention_factor=True)
    exported = export_hf(str(model), FactorSet.of(entries), tmp_path / "out", settings=settings)
    assert "long_mscale" not in config_of(tmp_path / "out")["rope_scaling"]
    loaded, theirs = load_model(model), AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    for length in (32, 64, 65, 256):
        ids = torch.arange(length)[None] % 50
        with torch.no_grad(), loaded.using(exported.served.for_length(length)):
            wanted = loaded.model(ids).logits
            assert float((theirs(ids).logits - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


def test_weights_with_a_folded_attention_factor_are_no_source(model, tmp_path):
    export_hf(str(model), OTHER, tmp_path / "out", settings=ExportSettings(fold_attention_factor=True))
    with pytest.raises(ExportError, match="contain"):
        export_hf(str(tmp_path / "out"), OTHER, tmp_path / "again")
    with pytest.raises(ExportError, match="contain"):
        export_gguf(tmp_path / "out", OTHER, tmp_path / "again.gguf")


def test_a_fold_that_changes_logits_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ropewalk.export.fold.QUERY_WEIGHTS", ("k_proj",))
    monkeypatch.setattr("ropewalk.export.fold._query_tensors", lambda *_: set())
    ours = FactorSet.of([LONG.replace(attention_factor=1.05)])
    with pytest.raises(ExportError, match="logits"):
        export_hf(str(model), ours, tmp_path / "out", settings=ExportSettings(fold_attention_factor=True))
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_is_merged_or_shipped_beside_with_its_base_named(model, tmp_path, tiny_tokenizer):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        make_tiny_model(tiny_tokenizer),
        peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(tmp_path / "adapter")
    beside = ExportSettings(adapter=tmp_path / "adapter", adapter_as="beside")
    export_hf(str(model), ONE, tmp_path / "beside", settings=beside)
    named = json.loads((tmp_path / "beside" / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(model)
    assert (tmp_path / "beside" / "model.safetensors").samefile(model / "model.safetensors")
    export_hf(str(model), ONE, tmp_path / "merged", settings=ExportSettings(adapter=tmp_path / "adapter"))
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    wanted = adapted.merge_and_unload().state_dict()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert merged[name].equal(wanted[name])
    assert config_of(tmp_path / "merged")["rope_theta"] == 100.0


def test_the_card_escapes_what_it_shows(model, tmp_path):
    evil = tmp_path / "a|b<script>[x](y)"
    model.rename(evil)
    export_hf(str(evil), ONE, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    heading = card.split("## Results")[0]
    assert "<script>" not in heading
    assert r"a\|b\<script\>\[x\]\(y\)" in heading


def test_the_exported_folder_describes_itself_as_it_was(model, tmp_path):
    """Its geometry is the plain one still, so that factors fit it as they fitted the model."""
    export_hf(str(model), THREE, tmp_path / "out", settings=SWITCHING)
    description = load_model(tmp_path / "out").description
    assert description.geometry == GEOMETRY
    assert description.own is not None
    assert description.own.rescale_factors == LONG.rescale_factors
    assert description.own_short is not None
    assert description.own_short.rescale_factors == SHORT.rescale_factors
    assert Path(tmp_path / "out").is_dir()


def test_factors_made_on_other_weights_are_warned_of(model, tmp_path):
    made_on = load_model(str(model)).weights_sha256
    right = LONG.replace(provenance=Provenance(model="mine", weights_sha256=made_on))
    wrong = LONG.replace(provenance=Provenance(model="another-model", weights_sha256="f" * 64))
    export_hf(str(model), FactorSet.of([right]), tmp_path / "right")  # a warning would be an error here
    with pytest.warns(OtherWeightsWarning, match="were made on another-model"):
        export_hf(str(model), FactorSet.of([wrong]), tmp_path / "wrong")
