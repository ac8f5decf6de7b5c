"""Faults as they happen in practice; each must stop the stage before another step."""

import dataclasses
import json

import pytest
import torch
from finetune_stages import load, make_factors, train
from safetensors.torch import load_file, save_file

from ropewalk.errors import FactorsError, FinetuneError
from ropewalk.finetune import train as train_module
from ropewalk.finetune.trainer import StageTrainer
from ropewalk.models.model import Model
from ropewalk.models.rotary import OneSet


def spoil_batches(monkeypatch, spoil):
    original = StageTrainer.collate

    def collate(self, segments):
        batch = original(self, segments)
        spoil(batch)
        return batch

    monkeypatch.setattr(StageTrainer, "collate", collate)


def spoil_before_step_1(monkeypatch, spoil):
    original = StageTrainer.train

    def begin(self, *args, **kwargs):
        spoil(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StageTrainer, "train", begin)


def shifted_labels(batch):
    batch["shift_labels"] = batch["shift_labels"].roll(-1, dims=1)


def unshifted_labels(batch):
    batch["shift_labels"] = batch["input_ids"].clone()


def positions_of_a_shard(batch):
    batch["position_ids"] = batch["position_ids"] % (batch["position_ids"].shape[1] // 2)


def positions_from_one(batch):
    """As with the padding of some tokenizers; only num_start_tokens shows where a text begins."""
    batch["position_ids"] = batch["position_ids"] + 1


def truncated(batch):
    batch["input_ids"] = batch["input_ids"].clone()
    batch["input_ids"][:, :10] = 0


@pytest.mark.parametrize(
    "fault", [shifted_labels, unshifted_labels, positions_of_a_shard, positions_from_one, truncated]
)
def test_a_batch_that_is_not_what_is_evaluated(tiny_model_folder, tmp_path, monkeypatch, fault):
    spoil_batches(monkeypatch, fault)
    steps = []
    with pytest.raises(FinetuneError, match="evaluator") as caught:
        train(tiny_model_folder, tmp_path / "stage", on_step=steps.append)
    assert "\n" not in str(caught.value)
    assert steps == []
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["stage.json"]


def other_theta(trainer):
    model = Model.wrap(trainer.model)
    geometry = dataclasses.replace(model.factors.geometry, rope_theta=10000.0)
    model.hook.set(OneSet(model.factors.replace(geometry=geometry)))


def own_rotary(trainer):
    Model.wrap(trainer.model).uninstall()


def no_start_tokens(trainer):
    model = Model.wrap(trainer.model)
    model.install(model.factors.replace(num_start_tokens=0))


def no_attention_factor(trainer):
    model = Model.wrap(trainer.model)
    model.install(model.factors.replace(attention_factor=1.0))


@pytest.mark.parametrize("fault", [other_theta, own_rotary, no_start_tokens, no_attention_factor])
def test_a_rotary_that_is_not_what_is_evaluated(tiny_model_folder, tmp_path, monkeypatch, fault):
    spoil_before_step_1(monkeypatch, fault)
    with pytest.raises(FinetuneError, match="evaluator"):
        train(tiny_model_folder, tmp_path / "stage")


def test_short_documents_with_the_long_factors(tiny_model_folder, tmp_path, monkeypatch):
    """Mixed windows without the switch to the short factors."""
    spoil_batches(monkeypatch, lambda batch: batch.update(is_short=False))
    with pytest.raises(FinetuneError, match="evaluator"):
        train(tiny_model_folder, tmp_path / "stage", mixed_window=True)


def test_short_documents_that_see_each_other(tiny_model_folder, tmp_path, monkeypatch):
    def join(batch):
        batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])

    spoil_batches(monkeypatch, join)
    with pytest.raises(FinetuneError, match="evaluator"):
        train(tiny_model_folder, tmp_path / "stage", mixed_window=True)


def test_a_base_of_another_theta(tiny_model_folder, tmp_path):
    """The configuration lost its theta before the stage."""
    factors = make_factors(load(tiny_model_folder))
    config = json.loads((tiny_model_folder / "config.json").read_text())
    del config["rope_parameters"]["rope_theta"]
    (tiny_model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FactorsError, match="rope_theta"):
        train(tiny_model_folder, tmp_path / "stage", factors=factors)


# ---------------------------------------------------------------- checkpoints are read back


def spoil_checkpoints(monkeypatch, spoil):
    original = train_module.write_plain

    def write(loaded, factors, folder, settings, **more):
        original(loaded, factors, folder, settings, **more)
        spoil(folder)

    monkeypatch.setattr(train_module, "write_plain", write)


def theta_lost(folder):
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10000.0
    (folder / "config.json").write_text(json.dumps(config))


def weights_stale(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.001
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def weight_missing(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("fault", [theta_lost, weights_stale, weight_missing])
def test_a_checkpoint_that_is_not_what_is_trained(tiny_model_folder, tmp_path, monkeypatch, fault):
    spoil_checkpoints(monkeypatch, fault)
    with pytest.raises(FinetuneError, match="checkpoint"):
        train(tiny_model_folder, tmp_path / "stage")
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["stage.json"]
