"""Training elsewhere: what is written, what must come back, and how the run goes on."""

import json
import shutil

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ropewalk.errors import FactorsError, ModelError, RunFolderError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.training_text import DocumentList
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.train import finetune_model
from ropewalk.models.model import load_model
from ropewalk.models.training_checkpoint import save_pinned
from ropewalk.recipe.run import run_recipe

STAGES = """\
  - {kind: search, length: 4x}
  - {kind: external, note: Train 100 steps.}
  - {kind: search, name: second, length: 8x}
  - {kind: evaluate, perplexity: [8x]}
"""


@pytest.fixture
def waiting(recipe_of, tmp_path):
    recipe = recipe_of(STAGES)
    result = run_recipe(recipe, tmp_path / "run")
    return recipe, tmp_path / "run", result.waits_for


@pytest.fixture
def trained(waiting, tmp_path):
    """The start checkpoint, trained a little by somebody."""
    start, _ = waiting[2]
    folder = tmp_path / "trained"
    shutil.copytree(start, folder)
    loaded = load_model(start)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1.01)
    loaded.model.save_pretrained(folder)
    return folder


def edit(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_the_start_checkpoint_turns_by_the_factors_by_itself(waiting):
    recipe, run, (start, note) = waiting
    assert note == "Train 100 steps."
    factors = RescaleFactors.load(run / "stages" / "01-search-4x" / "factors.json")
    base, pinned = load_model(recipe.model.name), load_model(start)
    assert pinned.geometry == base.geometry
    assert pinned.weights_sha256 == base.weights_sha256
    for own in (pinned.description.own, pinned.description.own_short):
        assert own.rescale_factors == factors.rescale_factors
        assert own.attention_factor == factors.attention_factor
    assert pinned.description.own.target_length == 256
    ids = torch.arange(2, 200)[None]
    with torch.no_grad(), base.using(factors):
        expected = base.model(input_ids=ids).logits
    with torch.no_grad():
        for length in (20, 198):  # nothing switches at the window of 64
            ours = pinned.model(input_ids=ids[:, :length]).logits
            torch.testing.assert_close(ours, expected[:, :length], atol=1e-4, rtol=1e-4)


def test_both_forms_are_in_the_configuration(waiting):
    config = json.loads((waiting[2][0] / "config.json").read_text())
    assert config["rope_scaling"] == config["rope_parameters"]
    assert config["rope_scaling"]["type"] == config["rope_scaling"]["rope_type"] == "longrope"
    assert config["rope_theta"] == config["rope_scaling"]["rope_theta"] == 100.0
    assert config["rope_scaling"]["factor"] == 4.0
    assert config["rope_scaling"]["short_factor"] == config["rope_scaling"]["long_factor"]
    assert config["original_max_position_embeddings"] == 64
    assert config["max_position_embeddings"] == 256


def test_it_waits_as_long_as_nothing_comes_back(waiting):
    recipe, run, before = waiting
    time = (before[0] / "model.safetensors").stat().st_mtime_ns
    assert run_recipe(recipe, run).waits_for == before
    assert (before[0] / "model.safetensors").stat().st_mtime_ns == time, "written once"


def test_it_goes_on_with_what_came_back(waiting, trained):
    recipe, run, _ = waiting
    result = run_recipe(recipe, run, continue_with=trained)
    assert result.waits_for is None
    first = RescaleFactors.load(run / "stages" / "01-search-4x" / "factors.json")
    assert result.factors.longest.provenance.settings["own"] == first.as_values()
    assert result.factors.longest.provenance.weights_sha256 == load_model(trained).weights_sha256
    assert load_model(result.checkpoint).weights_sha256 == load_model(trained).weights_sha256
    again = run_recipe(recipe, run)
    assert again.factors == result.factors, "what it went on with is noted"


def test_our_own_training_may_be_launched_on_it(waiting, tmp_path):
    """As docs/fine-tuning.md says for several processes."""
    recipe, run, (start, _) = waiting
    loaded, factors = load_model(start), RescaleFactors.load(start / "factors.json")
    text = DocumentList([TrainingDocument(ids=torch.arange(2, 250).repeat(2), source="a text")])
    settings = FinetuneSettings(length=256, num_steps=1, batch_size=1, learning_rate=1e-3)
    tuned = finetune_model(loaded, factors, text, settings, tmp_path / "tuned")
    result = run_recipe(recipe, run, continue_with=tuned.model_folder)
    assert result.factors.longest.provenance.settings["own"] == factors.as_values()
    assert load_model(result.checkpoint).weights_sha256 == load_model(tuned.model_folder).weights_sha256


def test_a_checkpoint_that_changes_afterwards_is_noticed(waiting, trained):
    recipe, run, _ = waiting
    run_recipe(recipe, run, continue_with=trained)
    shutil.rmtree(run / "stages" / "03-second")
    loaded = load_model(trained)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight.mul_(2)
    loaded.model.save_pretrained(trained)
    with pytest.raises(RunFolderError, match="other weights"):
        run_recipe(recipe, run)


def lose_scaling(config):
    for key in ("rope_scaling", "rope_parameters"):
        config[key] = {"rope_type": "default", "rope_theta": 100.0}
    config["max_position_embeddings"] = 64


def set_both(**changes):
    def change(config):
        for key in {"rope_scaling", "rope_parameters"} & set(config):  # a trainer may write one only
            config[key] |= changes

    return change


def other_window(config):
    set_both(original_max_position_embeddings=128)(config)
    config["original_max_position_embeddings"] = 128


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (set_both(rope_theta=10000.0), FactorsError, "rope_theta is 100,"),
        (lose_scaling, ModelError, "scaling"),
        (set_both(long_factor=[1.0, 1.0, 1.0, 1.0]), ModelError, "pair"),
        (set_both(short_factor=[1.0, 1.0, 1.0, 1.0]), ModelError, "pair"),
        (set_both(attention_factor=1.7), ModelError, "longrope scaling"),
        (other_window, FactorsError, "original_length is 64,"),
    ],
)  # fmt: skip
def test_what_lost_theta_factors_or_geometry_is_refused(waiting, trained, change, error, said):
    recipe, run, _ = waiting
    edit(trained, change)
    with pytest.raises(error) as caught:
        run_recipe(recipe, run, continue_with=trained)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run_recipe(recipe, run).waits_for is not None, "it still waits"


def test_a_checkpoint_of_another_base_is_refused(waiting, tmp_path, tiny_tokenizer):
    recipe, run, _ = waiting
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, head_dim=8, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    with pytest.raises(FactorsError, match="num_layers is 2"):
        run_recipe(recipe, run, continue_with=tmp_path / "other")
    with pytest.raises(ModelError, match="does not exist"):
        run_recipe(recipe, run, continue_with=tmp_path / "nowhere" / "at" / "all")


def test_the_start_checkpoint_itself_is_no_result(waiting, tmp_path):
    recipe, run, (start, _) = waiting
    with pytest.raises(ModelError, match="start checkpoint"):
        run_recipe(recipe, run, continue_with=start)


def test_what_no_configuration_holds_is_refused(tiny_model_folder, tmp_path):
    loaded = load_model(tiny_model_folder)
    factors = RescaleFactors.single(
        geometry=loaded.geometry, target_length=128, rescale_factors=[1.0, 1.5, 2.0, 2.0]
    )
    for wrong in (
        factors.replace(num_start_tokens=4),
        factors.replace(rescale_factors=factors.rescale_factors * 2),
    ):
        with pytest.raises(ModelError, match="configuration"):
            save_pinned(loaded, wrong, tmp_path / "pinned")
        assert not (tmp_path / "pinned").exists()
