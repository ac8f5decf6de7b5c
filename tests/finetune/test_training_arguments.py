"""Settings that this machine or this number of processes can't run."""

import pytest
from finetune_stages import load, make_settings, train

from ropewalk.errors import SettingError
from ropewalk.finetune.training_arguments import training_arguments


def test_a_logger_that_is_not_installed_is_one_line(tiny_model_folder, tmp_path):
    with pytest.raises(SettingError, match=r"(?i)comet"):
        train(tiny_model_folder, tmp_path / "stage", report_to=["comet_ml"])


def test_sharding_in_one_process_is_one_line(tiny_model_folder, tmp_path):
    with pytest.raises(SettingError, match=r"(?i)fsdp|distributed"):
        train(tiny_model_folder, tmp_path / "stage", parallel={"fsdp": True})


@pytest.mark.parametrize(
    ("processes", "changes", "noun"),
    [("3", {}, "batch_size"), ("1", {"precision": "fp16"}, "fp16"), ("1", {"batch_size": 6}, None)],
)
def test_batches_and_precision_must_suit_the_processes(
    tiny_model_folder, tmp_path, monkeypatch, processes, changes, noun
):
    monkeypatch.setenv("WORLD_SIZE", processes)
    model, settings = load(tiny_model_folder).model, make_settings(**changes)
    if noun is None:
        made = training_arguments(model, settings, tmp_path, recomputed=True)
        assert (made.gradient_accumulation_steps, made.max_steps) == (6, settings.num_steps)
        return
    with pytest.raises(SettingError, match=noun):
        training_arguments(model, settings, tmp_path, recomputed=True)
