import json

import pytest
from stub_training import stand_in

from ropewalk.recipe.reading import parse_recipe
from ropewalk.recipe.yaml_document import read_yaml, with_changes


@pytest.fixture(autouse=True)
def _rooms(monkeypatch):
    stand_in(monkeypatch)


@pytest.fixture
def texts(tmp_path):
    """Two files of documents, of about 600 tokens each for a tokenizer of bytes."""
    for name in ("searched", "reported"):
        rows = [{"text": f"{name} {n}: " + f"line {n} of {name}, and more. " * 24} for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def recipe_of(tiny_model_folder, texts):
    """A recipe for the tiny model, from its stages as YAML; its window of 64 tokens holds no facts."""

    def recipe(stages, *changes, more=""):
        text = f"""\
model: {{name: {tiny_model_folder}}}
text:
  search: {texts / "searched.jsonl"}
  test: {texts / "reported.jsonl"}
  num_documents: 2
  num_validation_documents: 1
  num_test_documents: 4
search: {{budget: 9, seed: 1, objective: perplexity}}
finetune: {{batch_size: 2}}
data: {{sources: [{{name: all, text: {texts / "searched.jsonl"}}}]}}
{more}
stages:
{stages}"""
        return parse_recipe(with_changes(read_yaml(text, "mine.yaml"), changes), window=64)

    return recipe
