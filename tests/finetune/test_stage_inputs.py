"""Models, factors and settings that can't be trained together."""

import pytest
from finetune_stages import load, make_documents, make_factors, make_settings, train

from ropewalk.errors import FactorsError, ModelError, SettingError
from ropewalk.finetune.data.training_text import DocumentList
from ropewalk.finetune.train import finetune_model
from ropewalk.models.training_checkpoint import save_pinned
from ropewalk.rope.schemes import scheme_factors


def test_segments_beyond_the_factors_are_refused(tiny_model_folder, tmp_path):
    with pytest.raises(SettingError, match="length is 200"):
        train(tiny_model_folder, tmp_path / "stage", length=200)


def test_factors_with_a_near_window_are_refused(tiny_model_folder, tmp_path):
    loaded = load(tiny_model_folder)
    factors = scheme_factors("near-far", loaded.geometry, 128)
    with pytest.raises(FactorsError, match="near window"):
        finetune_model(loaded, factors, DocumentList(make_documents()), make_settings(), tmp_path / "stage")
    with pytest.raises(FactorsError, match="near window"):
        save_pinned(loaded, factors, tmp_path / "start")
    assert list(tmp_path.iterdir()) == [tiny_model_folder]


def test_half_precision_weights_are_refused(tiny_model_folder, tmp_path):
    loaded = load(tiny_model_folder, dtype="bfloat16")
    with pytest.raises(ModelError, match="float32"):
        finetune_model(
            loaded, make_factors(loaded), DocumentList(make_documents()), make_settings(), tmp_path / "stage"
        )


def test_mixed_windows_need_the_original_rope(tiny_model_folder, tmp_path):
    loaded = load(tiny_model_folder)
    factors = make_factors(loaded, num_start_tokens=0)
    save_pinned(loaded, factors, tmp_path / "start")
    with pytest.raises(SettingError, match="mixed_window"):
        train(tmp_path / "start", tmp_path / "stage", factors=factors, mixed_window=True)


def test_mixed_windows_need_segments_beyond_the_window(tiny_model_folder, tmp_path):
    with pytest.raises(SettingError, match="window of 64"):
        train(tiny_model_folder, tmp_path / "stage", mixed_window=True, length=64)
