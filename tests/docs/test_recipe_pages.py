"""The pages about recipes are run: commands, recipes, Python; and their tables of keys are the settings."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

import ropewalk
from ropewalk.cli.main import run
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.scale_model import scale_model_path
from ropewalk.recipe.reading import load_recipe, parse_recipe, shipped_recipes
from ropewalk.recipe.yaml_document import YamlDocument, read_yaml

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = DOCS.parent / "scripts" / "settings_tables.py"
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
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "ropewalk"
        code, said = run(arguments), capfd.readouterr()
        assert code == 0, f"{line}\n{said.err}"
        assert said.out.strip() or "Written" in said.err, line


@pytest.mark.parametrize("name", yaml_files())
def test_recipes_are_recipes(name):
    """A part of one is put beside what it leaves out."""
    shown = read_yaml(yaml_files()[name], name)
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
    parse_recipe(YamlDocument(values=values, places=shown.places, source=name), window=256)


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


def load_script():
    spec = importlib.util.spec_from_file_location("settings_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TABLES = load_script()
MARKERS = re.findall(r"<!-- (\w+) of (\w+) -->", "".join(page.read_text() for page in DOCS.glob("*.md")))


@pytest.mark.parametrize("page", sorted(page.name for page in DOCS.glob("*.md")))
def test_tables_of_settings_are_as_the_script_writes_them(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert TABLES.with_tables(text) == text


def test_every_field_has_a_description():
    for model in (*TABLES.CLASSES.values(), *TABLES.STAGES.values()):
        nameless = [name for name, field in model.model_fields.items() if not field.description]
        assert nameless in ([], ["kind"]), model


def test_there_is_a_table_for_every_class():
    """Of options only for what is not in a recipe."""
    assert {name for _, name in MARKERS} == {*TABLES.CLASSES, "stages"}
