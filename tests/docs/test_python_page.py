"""The programs and commands of docs/python.md run: training, readjustment, export, a whole recipe."""

import pytest
from docs_pages import blocks, run_commands, run_python, shortened

import ropewalk

PAGE = "docs/python.md"
RECIPE_CHANGES = [
    "text.num_documents=1",
    "text.num_validation_documents=0",
    "search.budget=6",
    "stages.tune.num_steps=2",
    "finetune.batch_size=1",
    "finetune.warmup_steps=1",
    "stages.2.budget=6",
    "stages.2.num_documents=1",
    "stages.3={kind: evaluate, perplexity: [1x, 8x], passkey: [1x], num_trials: 2, num_documents: 3}",
]
INSTALLING, TRAINING, EXPORT, RECIPE = range(4)


@pytest.fixture(scope="module")
def programs():
    found = blocks(PAGE, "python")
    assert len(found) == 4
    return found


def test_factors_are_installed(programs, tmp_path):
    run_python(programs[INSTALLING], tmp_path)


def test_training_readjustment_and_export_follow_each_other(programs, tmp_path):
    geometry = ropewalk.load_model("scale-model").geometry
    ropewalk.scheme_factors("yarn", geometry, 2048).save(tmp_path / "factors.json")
    changes = {
        "num_steps=40, batch_size=2": "num_steps=1, batch_size=1",
        "length=256, num_documents=5": "length=256, num_documents=2",
        "budget=20": "budget=6",
    }
    run_python(shortened(programs[TRAINING], changes), tmp_path)
    assert ropewalk.FactorSet.load(tmp_path / "factor-set.json").lengths == (256, 2048)
    run_python(programs[EXPORT], tmp_path)
    assert (tmp_path / "shipped/mine/config.json").is_file()
    assert (tmp_path / "shipped/mine.gguf").is_file()


def test_a_recipe_runs_from_end_to_end(programs, tmp_path):
    run_commands(PAGE, tmp_path, {"ropewalk extend scale-model-quick --out runs/quick": RECIPE_CHANGES})
    assert (tmp_path / "runs/quick/result/factors.json").is_file()
    assert (tmp_path / "runs/quick/result/model.safetensors").is_file()
    changes = {'"scale-model-quick"': f'"scale-model-quick", {RECIPE_CHANGES!r}'}
    run_python(shortened(programs[RECIPE], changes), tmp_path)
