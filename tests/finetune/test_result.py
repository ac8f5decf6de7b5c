"""The folder of a stage: its result, its lock, and folders that are refused."""

import pytest
from finetune_stages import Stopped, load, make_documents, make_factors, make_settings, stop_after, train

from ropewalk.errors import FinetuneError, RunFolderError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.training_text import DocumentList
from ropewalk.finetune.result import write_plain
from ropewalk.finetune.train import finetune_model


def test_gathered_weights_are_hashed_too(tiny_model_folder, tmp_path):
    loaded = load(tiny_model_folder)
    factors, whole = make_factors(loaded), loaded.model.state_dict()
    tuned = {name: tensor * 1.5 for name, tensor in whole.items()}
    write_plain(loaded, factors, tmp_path / "out", make_settings(), weights=tuned)
    made = RescaleFactors.load(tmp_path / "out" / "factors.json").provenance
    assert made.weights_sha256 == load(tmp_path / "out").weights_sha256 != loaded.weights_sha256


def test_a_complete_stage_returns_its_result(tiny_model_folder, tmp_path):
    first = train(tiny_model_folder, tmp_path / "stage")
    again = train(tiny_model_folder, tmp_path / "stage", on_step=stop_after(1))
    assert again == first


def test_half_written_files_of_a_killed_stage_are_removed(tiny_model_folder, tmp_path):
    stage = tmp_path / "stage"
    stage.mkdir()
    (stage / ".stage.json.abcdefgh.partial").write_text("{")
    (stage / ".lock").touch()
    train(tiny_model_folder, stage, num_steps=1)
    assert not list(stage.glob(".*"))


def test_a_stage_in_training_is_refused(tiny_model_folder, tmp_path):
    """Its unfinished checkpoint would be removed as one of a killed process."""
    refused = []

    def again(progress):
        (tmp_path / "stage" / ".checkpoint-9.partial").mkdir(exist_ok=True)
        with pytest.raises(RunFolderError, match="in use") as caught:
            train(tiny_model_folder, tmp_path / "stage")
        refused.append(str(caught.value))
        assert (tmp_path / "stage" / ".checkpoint-9.partial").is_dir()

    train(tiny_model_folder, tmp_path / "stage", num_steps=1, on_step=again)
    assert len(refused) == 1
    assert "\n" not in refused[0]
    train(tiny_model_folder, tmp_path / "stage", num_steps=1)


def test_a_folder_of_another_stage_is_refused(tiny_model_folder, tmp_path):
    stage = tmp_path / "stage"
    with pytest.raises(Stopped):
        train(tiny_model_folder, stage, on_step=stop_after(3))
    with pytest.raises(FinetuneError, match=r"settings\.learning_rate"):
        train(tiny_model_folder, stage, learning_rate=0.02)
    with pytest.raises(FinetuneError, match="text"):
        train(tiny_model_folder, stage, documents=make_documents(seed=1))
    with pytest.raises(FinetuneError, match="factors"):
        train(tiny_model_folder, stage, factors=make_factors(load(tiny_model_folder), 192))
    other = load(stage / "checkpoint-2")
    with pytest.raises(FinetuneError, match="model"):
        finetune_model(other, make_factors(other), DocumentList(make_documents()), make_settings(), stage)
    train(tiny_model_folder, stage, save_every=1, keep_checkpoints=1, gradient_checkpointing=False)


def test_a_folder_with_other_files_is_refused(tiny_model_folder, tmp_path):
    with pytest.raises(FinetuneError, match=r"config\.json"):
        train(tiny_model_folder, tiny_model_folder)


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_result_is_refused(tiny_model_folder, tmp_path, content):
    train(tiny_model_folder, tmp_path / "stage", num_steps=1)
    (tmp_path / "stage" / "result.json").write_text(content)
    with pytest.raises(FinetuneError, match="result"):
        train(tiny_model_folder, tmp_path / "stage", num_steps=1)
