"""A stage from its start to its end: the result, resuming after stops and kills, other stages, full disks."""

import json
import pickle
import resource
import signal
import subprocess
import sys
import zipfile

import finetune_kills
import pytest
import torch
from finetune_stages import (
    LENGTH,
    Stopped,
    load,
    make_documents,
    make_factors,
    make_settings,
    same_weights,
    stop_after,
    train,
    weights,
)

from ropewalk.errors import DataError, FinetuneError, SettingError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.mixture import Mixture, MixtureSettings, SourceSettings
from ropewalk.finetune.data.training_text import DocumentList
from ropewalk.finetune.train import finetune_model


def test_a_stage_learns_and_leaves_a_plain_model(tiny_model_folder, tmp_path):
    steps = []
    result = train(tiny_model_folder, tmp_path / "stage", num_steps=12, save_every=6, on_step=steps.append)
    assert len(result.losses) == 12
    assert result.losses[-1] < result.losses[0] - 0.2
    assert [p.step for p in steps] == list(range(1, 13))
    assert steps[-1].num_tokens == result.num_tokens == 12 * 2 * LENGTH
    assert result.checkpoint == tmp_path / "stage" / "checkpoint-12"
    assert same_weights(result.checkpoint, result.model_folder)
    assert not same_weights(tiny_model_folder, result.model_folder)

    base = json.loads((tiny_model_folder / "config.json").read_text())
    tuned = json.loads((result.model_folder / "config.json").read_text())
    assert tuned == base  # its RoPE too: the factors beside it say how it is read
    assert RescaleFactors.load(result.model_folder / "factors.json") == result.factors
    reloaded = load(result.model_folder)
    assert result.factors.provenance.weights_sha256 == reloaded.weights_sha256
    reloaded.warn_if_other_weights(result.factors)  # a warning would be an error
    usual = (tmp_path / "stage" / "stage.json").stat().st_mode
    written = [path for path in (tmp_path / "stage").rglob("*") if path.is_file()]
    assert {path.stat().st_mode for path in written} == {usual}, "a server of another user can't read these"


def test_the_model_is_left_without_factors_and_restored(tiny_model_folder, tmp_path):
    loaded = load(tiny_model_folder)
    before = set(loaded.model.__dict__)
    factors = make_factors(loaded)
    finetune_model(loaded, factors, DocumentList(make_documents()), make_settings(), tmp_path / "stage")
    assert loaded.factors is None
    assert set(loaded.model.__dict__) == before
    assert not loaded.model.training
    assert loaded.model.config.use_cache is True
    assert all("forward" not in vars(module) for module in loaded.model.modules())


@pytest.mark.parametrize("changes", [{}, {"lora": {"rank": 4, "dropout": 0.1}}, {"mixed_window": True}])
def test_resuming_gives_the_same_bits(tiny_model_folder, tmp_path, changes):
    whole = train(tiny_model_folder, tmp_path / "whole", num_steps=5, **changes)
    for step in (1, 3):  # before the first checkpoint, and after it
        with pytest.raises(Stopped):
            train(tiny_model_folder, tmp_path / "cut", num_steps=5, on_step=stop_after(step), **changes)
    resumed = train(tiny_model_folder, tmp_path / "cut", num_steps=5, **changes)
    assert resumed.losses == whole.losses
    assert same_weights(resumed.model_folder, whole.model_folder)
    states = [(made.checkpoint / "trainer_state.json").read_text() for made in (resumed, whole)]
    assert states[0] == states[1], "loggers get the same"


def test_resuming_a_mixture_gives_the_same_bits(tiny_model_folder, tmp_path, monkeypatch):
    """Several sources, read ahead in threads, and generated texts with facts."""
    monkeypatch.setattr("ropewalk.finetune.data.sources.BLOCK_SEGMENTS", 1)  # small blocks are quick
    monkeypatch.setattr("ropewalk.finetune.data.mixture.TEXTS_AT_ONCE", 4)
    for name, words in (("long", 40), ("short", 4)):
        rows = (json.dumps({"text": f"{name} {n} " + "strand by strand " * words}) for n in range(30))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    names = ("long", "short")
    sources = tuple(SourceSettings(name=name, text=str(tmp_path / f"{name}.jsonl")) for name in names)
    settings = make_settings(length=256, num_steps=5)

    def run(folder, on_step=None):
        loaded = load(tiny_model_folder)
        text = Mixture(MixtureSettings(sources=sources, retrieval_share=0.3), loaded.tokenizer, 256)
        factors = make_factors(loaded, target_length=256)
        return finetune_model(loaded, factors, text, settings, tmp_path / folder, on_step=on_step)

    whole = run("whole")
    for step in (1, 3):
        with pytest.raises(Stopped):
            run("cut", stop_after(step))
    resumed = run("cut")
    assert resumed.losses == whole.losses
    assert same_weights(resumed.model_folder, whole.model_folder)


def test_a_stage_killed_after_its_last_step_is_completed(tiny_model_folder, tmp_path):
    whole = train(tiny_model_folder, tmp_path / "whole")
    train(tiny_model_folder, tmp_path / "cut")
    for name in ("result.json", "model/model.safetensors"):
        (tmp_path / "cut" / name).unlink()
    resumed = train(tiny_model_folder, tmp_path / "cut", on_step=stop_after(1))
    assert resumed.losses == whole.losses
    assert same_weights(resumed.model_folder, whole.model_folder)


def test_old_checkpoints_are_removed_after_a_new_one_is_complete(tiny_model_folder, tmp_path):
    train(tiny_model_folder, tmp_path / "stage", num_steps=5, save_every=1, keep_checkpoints=3)
    found = sorted(path.name for path in (tmp_path / "stage").glob("checkpoint-*"))
    assert found == ["checkpoint-3", "checkpoint-4", "checkpoint-5"]
    assert not list((tmp_path / "stage").glob(".*"))


def test_no_file_is_a_pickle(tiny_model_folder, tmp_path):
    for name, lora in (("full", None), ("lora", {"rank": 2})):
        train(tiny_model_folder, tmp_path / name, lora=lora)
    files = [
        path for path in tmp_path.rglob("*") if path.is_file() and tmp_path / "tiny-model" not in path.parents
    ]
    assert len(files) > 40
    for path in files:
        assert path.suffix in (".json", ".safetensors", ".md"), path
        assert not zipfile.is_zipfile(path), path
        if path.suffix == ".json":
            json.loads(path.read_bytes())


def test_no_pickle_is_read_or_written(tiny_model_folder, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pickle")

    for owner, name in (
        (torch, "save"),
        (torch, "load"),
        (pickle, "dump"),
        (pickle, "load"),
        (pickle, "loads"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    with pytest.raises(Stopped):
        train(tiny_model_folder, tmp_path / "stage", on_step=stop_after(3))
    train(tiny_model_folder, tmp_path / "stage")


# ---------------------------------------------------------------- killed, full, damaged


def test_killed_while_it_saves(tiny_model_folder, tmp_path):
    command = [sys.executable, finetune_kills.__file__, str(tiny_model_folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    ended = json.loads(done.stdout.splitlines()[-1])
    assert ended == dict.fromkeys(finetune_kills.MOMENTS, signal.SIGKILL), done.stderr
    whole = train(tiny_model_folder, tmp_path / "whole", **finetune_kills.CHANGES)
    for moment in finetune_kills.MOMENTS:
        stage, steps = tmp_path / moment, []
        if "removed" not in moment:
            assert list(stage.glob(".*.partial")), f"nothing was half written {moment}"
        resumed = train(tiny_model_folder, stage, on_step=steps.append, **finetune_kills.CHANGES)
        assert len(steps) < 3, f"it started again when killed {moment}"
        assert resumed.losses == whole.losses, moment
        assert same_weights(resumed.model_folder, whole.model_folder), moment
        assert not list(stage.glob(".*")), moment


@pytest.mark.parametrize("limit", [4000, 60_000])
def test_a_full_disk_keeps_the_last_checkpoint(tiny_model_folder, tmp_path, limit):
    """A limit on file sizes, which the system reports like a full disk."""

    def fill(progress):
        if progress.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(FinetuneError, match="checkpoint-4") as caught:
            train(tiny_model_folder, tmp_path / "stage", on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    left = sorted(path.name for path in (tmp_path / "stage").iterdir())
    assert left == ["checkpoint-2", "stage.json"]
    resumed = train(tiny_model_folder, tmp_path / "stage")
    assert resumed.losses == train(tiny_model_folder, tmp_path / "whole").losses


@pytest.mark.parametrize("name", ["optimizer.safetensors", "progress.json", "manifest.json", "extra.pt"])
def test_a_damaged_checkpoint_is_not_read(tiny_model_folder, tmp_path, name):
    with pytest.raises(Stopped):
        train(tiny_model_folder, tmp_path / "stage", on_step=stop_after(3))
    file = tmp_path / "stage" / "checkpoint-2" / name
    content = bytearray(file.read_bytes()) if file.exists() else bytearray(b"never written")
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(FinetuneError, match="checkpoint-2"):
        train(tiny_model_folder, tmp_path / "stage")


# ---------------------------------------------------------------- wrong input


def test_a_stage_longer_than_every_document_is_refused(tiny_model_folder, tmp_path):
    documents = make_documents((LENGTH - 3, 20, 55))  # without BOS and EOS
    with pytest.raises(DataError, match=f"{LENGTH - 3} tokens"):
        train(tiny_model_folder, tmp_path / "stage", documents=documents)
    assert not (tmp_path / "stage" / "stage.json").exists()
    train(tiny_model_folder, tmp_path / "stage", documents=make_documents((LENGTH - 2, 20, 55)), num_steps=1)


def test_a_text_that_ends_too_early(tiny_model_folder, tmp_path):
    loaded = load(tiny_model_folder)
    stream = DocumentList(make_documents(), num_rounds=2)
    with pytest.raises(DataError, match="ended"):
        finetune_model(loaded, make_factors(loaded), stream, make_settings(num_steps=50), tmp_path / "stage")
    assert (tmp_path / "stage" / "checkpoint-6").is_dir()


def test_a_loss_that_is_not_finite_stops_the_stage(tiny_model_folder, tmp_path):
    with pytest.raises(FinetuneError, match=r"nan|inf"):
        train(tiny_model_folder, tmp_path / "stage", learning_rate=1e30, save_every=50, num_steps=20)


# ---------------------------------------------------------------- precision and adapters


def test_bf16_after_float32_in_one_process(tiny_model_folder, tmp_path):
    exact = train(tiny_model_folder, tmp_path / "exact")
    half = train(tiny_model_folder, tmp_path / "half", precision="bf16")
    assert half.losses != exact.losses
    assert half.losses == pytest.approx(exact.losses, abs=0.1)
    assert all(tensor.dtype == torch.float32 for tensor in weights(half.model_folder).values())


def test_an_adapter_trains_its_targets_and_is_merged(tiny_model_folder, tmp_path):
    result = train(tiny_model_folder, tmp_path / "stage", lora={"rank": 2, "target_modules": ["q_proj"]})
    assert (result.checkpoint / "adapter_model.safetensors").is_file()
    assert not (result.checkpoint / "model.safetensors").exists()
    before, after = weights(tiny_model_folder), weights(result.model_folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1)}


def test_an_adapter_without_a_target_is_refused(tiny_model_folder, tmp_path):
    with pytest.raises(SettingError, match="lora"):
        train(tiny_model_folder, tmp_path / "stage", lora={"target_modules": ["no_such"]})
