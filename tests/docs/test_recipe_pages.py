"""The pages about recipes are run: commands, recipes, Python; and their tables of keys are the settings."""

import re
import shlex
import shutil
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

import ropewalk
from ropewalk.cli.main import run
from ropewalk.factors.factor_set import FactorSet
from ropewalk.finetune.data.mixture import MixtureSettings
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.models.scale_model import scale_model_path
from ropewalk.recipe.reading import load_recipe, parse_recipe, shipped_recipes
from ropewalk.recipe.schema import Recipe
from ropewalk.recipe.stages import AnyStage, Stage
from ropewalk.recipe.yaml_document import Document, read_document
from ropewalk.search.settings import SearchChoices, SearchSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("recipes.md", "fine-tuning.md")
REQUIRED = "must be given"


def blocks(page, language):
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def yaml_files():
    """Each block of YAML by the file name that its first line says."""
    found = {}
    for page in PAGES:
        for block in blocks(page, "yaml"):
            (name,) = re.findall(r"\A# ([a-z]+\.yaml)", block)
            assert name not in found
            found[name] = block
    return found


# ---------------------------------------------------------------- what is shown works


@pytest.mark.parametrize("page", PAGES)
def test_commands_run_in_their_order(page, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name, block in yaml_files().items():
        (tmp_path / name).write_text(block)
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "ropewalk"
        code, said = run(arguments), capfd.readouterr()
        assert code == 0, f"{line}\n{said.err}"
        assert said.out.strip() or "Written" in said.err, line


@pytest.mark.parametrize("name", yaml_files())
def test_recipes_are_recipes(name):
    """A part of one is put beside what it leaves out."""
    shown = read_document(yaml_files()[name], name)
    stages = [
        {"kind": "search", "length": "8x"},
        {"kind": "finetune", "length": "8x", "num_steps": 1},
    ]
    rest = {
        "model": {"name": "scale-model"},
        "data": {"sources": [{"name": "library", "text": "stdlib"}]},
        "stages": stages,
    }
    values = {**rest, **shown.values}
    parse_recipe(Document(values=values, places=shown.places, source=name), window=256)


def test_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = tmp_path / "runs" / "mine" / "result"
    shutil.copytree(scale_model_path(), result)
    geometry = ropewalk.load_model("scale-model").geometry
    entries = [ropewalk.scheme_factors("yarn", geometry, length) for length in (256, 16384)]
    FactorSet.of(entries).save(result / "factors.json")
    programs = [program for page in PAGES for program in blocks(page, "python")]
    assert len(programs) == 2
    for program in programs:
        exec(compile(program, "the page", "exec"), {})
    assert (tmp_path / "runs" / "tuned" / "model" / "factors.json").is_file()


def test_every_shipped_recipe_is_named():
    (table,) = re.findall(r"^\| shipped .*?\n\n", (DOCS / "recipes.md").read_text(), re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"`([\w-]+)`", table)) == set(shipped_recipes())
    tune = next(stage for stage in load_recipe("scale-model-quick").stages if stage.kind == "finetune")
    assert f"{tune.num_steps} steps" in table


# ---------------------------------------------------------------- every key, and no other


def models_in(annotation):
    """Every settings model that a recipe's value may hold, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for inner in get_args(annotation):
        yield from models_in(inner)


MODELS = {
    model.__name__: model
    for root in (Recipe, FinetuneSettings, MixtureSettings)
    for model in models_in(root)
    if not issubclass(model, Stage)
} | {"SearchChoices": SearchChoices}
STAGES = {
    model.model_fields["kind"].annotation.__args__[0]: model for model in set(get_args(get_args(AnyStage)[0]))
}


def table_after(marker):
    """The cells of the table that follows a marker, without backticks, on whichever page it is."""
    text = "\n".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES)
    ((_, table),) = re.findall(rf"<!-- keys of ({marker}) -->\n\n(.*?)\n(?:\n|\Z)", text, flags=re.DOTALL)
    rows = [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in table.splitlines()]
    return rows[2:]


def written(cell):
    """A default as a recipe has it."""
    return REQUIRED if cell == REQUIRED else read_document(f"value: {cell}", "the page").values["value"]


def default(model, name):
    field = model.model_fields[name]
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if model is SearchChoices:
        value = getattr(SearchSettings(), name)  # what a recipe leaves out is left to these
    if isinstance(value, BaseModel):
        assert value == type(value)()
        return {}
    return list(value) if isinstance(value, tuple) else value


def test_there_is_a_table_for_every_model():
    text = "\n".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES)
    assert sorted(re.findall(r"<!-- keys of (\w+) -->", text)) == sorted([*MODELS, "stages"])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_keys_and_defaults_are_the_settings(name):
    model, rows = MODELS[name], table_after(name)
    assert [key for key, *_ in rows] == list(model.model_fields)
    for key, shown, _ in rows:
        assert written(shown) == default(model, key), key


@pytest.mark.parametrize("kind", sorted(STAGES))
def test_keys_of_stages_are_their_settings(kind):
    model, rows = STAGES[kind], table_after("stages")
    assert {row[0] for row in rows} == {"every", *STAGES}
    mine = {key: shown for of, key, shown, _ in rows if of in ("every", kind)}
    shared = set(SearchChoices.model_fields) if issubclass(model, SearchChoices) else set()
    assert set(mine) == set(model.model_fields) - shared
    for key, shown in mine.items():
        assert written(shown) == default(model, key), key
