"""A recipe read from YAML and checked as a whole: every mistake at once, each with its line."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ropewalk.errors import RecipeError, RopewalkError
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.recipe.mistakes import KeyPath, Mistake, explain
from ropewalk.recipe.order import order_mistakes
from ropewalk.recipe.schema import Recipe
from ropewalk.recipe.stages import FinetuneStage, ReadjustStage, SearchStage, Stage
from ropewalk.recipe.yaml_document import YamlDocument, read_yaml, with_changes
from ropewalk.search.settings import SearchSettings
from ropewalk.settings import Settings, suggest
from ropewalk.store import read_bounded
from ropewalk.units import parse_length

FOLDER = Path(__file__).parents[1] / "recipes"
LARGEST_BYTES = 2**20
ANY_WINDOW = 4096  # where the model's is not known, to check settings that need some number of tokens
# Kinds of stage with the keys of a settings class: the recipe's section, the class, and the stage's.
SECTIONS: Mapping[str, tuple[str, type[Settings], type[Stage]]] = {
    "search": ("search", SearchSettings, SearchStage),
    "readjust": ("search", SearchSettings, ReadjustStage),
    "finetune": ("finetune", FinetuneSettings, FinetuneStage),
}


def shipped_recipes() -> dict[str, Path]:
    """The recipes of the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def recipe_text(name: str) -> tuple[str, str]:
    """A recipe's text, and what errors call it: a shipped one by its name, or a file.

    Raises:
        RecipeError: neither of the two, or not readable.
    """
    shipped = shipped_recipes()
    try:
        path = shipped.get(name) or Path(name).expanduser()
        is_there = path.is_file()
    except (OSError, RuntimeError, ValueError):  # a name that no system takes, or no such home folder
        is_there = False
    if not is_there:
        near = suggest(name, shipped)
        message = f"there is no such recipe{near}: name a file, or one of {', '.join(shipped)}"
        raise RecipeError(name[:200], [Mistake("looked for as a file and a shipped recipe", "", message)])
    try:
        text = read_bounded(path, LARGEST_BYTES).decode("utf-8")
        return text, path.name if name in shipped else name
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(name, [Mistake("the file", "", f"can't be read: {reason}")]) from None


def load_recipe(name: str, changes: Sequence[str] = (), *, window: int | None = None) -> Recipe:
    """Read a recipe and check it.

    Args:
        name: a shipped recipe's name, or a file.
        changes: `key=value`, as `--set` takes them.
        window: L of its model, tokens; None checks no length against another.

    Raises:
        RecipeError: every mistake, each with its line.
    """
    document = with_changes(read_yaml(*recipe_text(name)), changes)
    return parse_recipe(document, window=window)


def parse_recipe(document: YamlDocument, *, window: int | None = None) -> Recipe:
    """As `load_recipe`, of what was read."""
    found = list(_settings_mistakes(document.values, window))
    recipe = None
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        found += explain(error, Recipe, document.values)
    if recipe is not None:
        found += order_mistakes(recipe, window or recipe.model.original_length)
    if recipe is None or found:
        raise _error(document, found)
    return recipe


def _error(document: YamlDocument, found: Sequence[tuple[KeyPath, str]]) -> RecipeError:
    mistakes = [
        Mistake(document.place(path), ".".join(map(str, path)), message)
        for path, message in dict.fromkeys(found)
    ]
    in_order: list[Mistake] = sorted(mistakes, key=_by_line)
    return RecipeError(document.source, in_order)


def _by_line(mistake: Mistake) -> tuple[int, str]:
    word, _, number = mistake.place.partition(" ")
    return (int(number), "") if word == "line" and number.isdigit() else (10**9, mistake.place)


def _settings_mistakes(recipe: Mapping[str, Any], window: int | None) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with the settings of stages, each together with those of its section."""
    stages = recipe.get("stages")
    is_trained = False
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        kind = stage.get("kind") if isinstance(stage, dict) else None
        if not isinstance(kind, str) or kind not in SECTIONS:
            continue
        is_trained |= kind == "finetune"
        section, settings, own = SECTIONS[kind]
        shared = recipe.get(section)
        for key, message in _mistakes_beside(
            stage, shared if isinstance(shared, dict) else {}, settings, own, window
        ):
            in_stage = not key or key[0] in stage or key[0] not in (shared or {})
            yield (("stages", index, *key) if in_stage else (section, *key)), message
    if is_trained and not recipe.get("data"):
        yield ("data",), "there is a finetune stage, but no text to train on: give `data:` with `sources:`"


def _mistakes_beside(
    stage: Mapping[str, Any],
    shared: Mapping[str, Any],
    settings: type[Settings],
    own: type[Stage],
    window: int | None,
) -> Iterator[tuple[KeyPath, str]]:
    """The mistakes of a stage's settings.

    Args:
        settings: their class.
        own: the stage's class, whose other keys are no settings.
    """
    others = set(own.model_fields) - set(settings.model_fields)
    merged = {**shared, **{key: value for key, value in stage.items() if key not in others}}
    try:
        if "length" in settings.model_fields:
            merged["length"] = parse_length(str(merged.get("length")), window or ANY_WINDOW)
        settings.model_validate(merged)
    except ValidationError as error:
        yield from explain(error, settings, merged, others)
    except RopewalkError:
        pass  # the stage finds a mistake in the length by itself
    if merged.get("base", "native") != "native":
        yield ("base",), "a recipe always replaces the scaling that the model has: leave it out"
