import json

import pytest

from ropewalk.errors import FinetuneError, RunFolderError
from ropewalk.finetune.training_folder import open_stage, read_result, write_result

IDENTITY = {"model": "12", "factors": "34", "text": "56", "settings": {"seed": 0, "betas": (0.9, 0.95)}}


def open_briefly(stage, identity=IDENTITY, *, part_of_recipe=False):
    with open_stage(stage, identity, part_of_recipe=part_of_recipe):
        return sorted(path.name for path in stage.iterdir())


@pytest.mark.parametrize("part_of_recipe", [False, True])
@pytest.mark.parametrize("name", ["text", "settings"])
def test_another_stage_is_refused_with_what_differs(tmp_path, part_of_recipe, name):
    stage = tmp_path / "stage"
    open_briefly(stage, part_of_recipe=part_of_recipe)
    open_briefly(stage, part_of_recipe=part_of_recipe)
    with pytest.raises(FinetuneError, match=name):
        open_briefly(stage, {**IDENTITY, name: {"seed": 1}}, part_of_recipe=part_of_recipe)


def test_a_stage_of_a_recipe_has_one_lock_and_states_no_input_twice(tmp_path):
    stage = tmp_path / "training"
    assert open_briefly(stage, part_of_recipe=True) == ["stage.json"], "the run's folder is locked"
    assert set(json.loads((stage / "stage.json").read_text())["identity"]) == {"text", "settings"}
    assert open_briefly(tmp_path / "alone") == [".lock", "stage.json"]


def test_a_stage_that_the_first_versions_began_in_a_recipe_is_resumed(tmp_path):
    """They wrote the whole identity there too."""
    stage = tmp_path / "training"
    open_briefly(stage)
    open_briefly(stage, part_of_recipe=True)
    with pytest.raises(FinetuneError, match="text"):
        open_briefly(stage, {**IDENTITY, "text": "78"}, part_of_recipe=True)


def test_one_process_at_a_time_trains_a_stage(tmp_path):
    with open_stage(tmp_path, IDENTITY, part_of_recipe=False), pytest.raises(RunFolderError, match="in use"):
        open_briefly(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "ropewalk.finetune", "version": 1}'])
def test_a_damaged_description_is_refused(tmp_path, content):
    (tmp_path / "stage.json").write_text(content)
    with pytest.raises(FinetuneError, match="folder"):
        open_briefly(tmp_path)


def test_a_result_is_read_back(tmp_path):
    write_result(tmp_path, losses=[1.5], checkpoint="checkpoint-1")
    assert read_result(tmp_path, "remove it")["losses"] == [1.5]
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(FinetuneError, match="remove it"):
        read_result(tmp_path, "remove it")
