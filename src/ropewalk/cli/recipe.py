"""`ropewalk recipe`: list, show, copy and check recipes."""

from pathlib import Path
from typing import Annotated

import typer

from ropewalk.cli import options
from ropewalk.cli.extend import Changes, RecipeName
from ropewalk.cli.output import one_line, result, result_json, say
from ropewalk.errors import ModelError, SettingError

app = typer.Typer(rich_markup_mode=None, help="List, show, copy and check recipes of `ropewalk extend`.")


@app.command(name="list")
def list_recipes(json: options.Json = False) -> None:
    """The recipes that come with Ropewalk, each with its first sentence.

    \b
    Example:
        ropewalk recipe list
    """
    from ropewalk.recipe.reading import shipped_recipes

    found = {name: first_sentence(path) for name, path in shipped_recipes().items()}
    if json:
        result_json([{"name": name, "about": about} for name, about in found.items()])
        return
    width = max(map(len, found))
    for name, about in found.items():
        result(one_line(f"{name:<{width}}  {about}"))


@app.command()
def show(recipe: RecipeName) -> None:
    """Print a recipe as it is written, its comments included.

    \b
    Example:
        ropewalk recipe show scale-model-quick
    """
    from ropewalk.recipe.reading import recipe_text

    result(recipe_text(recipe)[0].rstrip("\n"))


@app.command()
def copy(
    recipe: RecipeName,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.yaml", help="By default RECIPE.yaml, here.")
    ] = None,
) -> None:
    """Copy a recipe to a file of your own, to change it.

    \b
    Example:
        ropewalk recipe copy any-model-8x mine.yaml
    """
    from ropewalk.recipe.reading import recipe_text

    text, _ = recipe_text(recipe)
    target = file or Path(f"{Path(recipe).stem}.yaml")
    if target.exists():
        raise SettingError(f"{target} is there already: name another file, or remove it.")
    options.save_file(target, text.encode())
    say(f"Written: {target}")


@app.command()
def check(recipe: RecipeName, changes: Changes = None, json: options.Json = False) -> None:
    """Check a recipe without running it: every mistake at once, each with its line.

    Lengths are compared with the window of its model, where the model's configuration can be read.

    \b
    Example:
        ropewalk recipe check mine.yaml --set search.budget=60
    """
    from ropewalk.recipe.reading import load_recipe

    checked = load_recipe(recipe, changes or [])
    window = checked.model.original_length
    try:
        window = checked.model.describe().geometry.original_length
    except ModelError as error:
        if window is None:
            say(f"Lengths were not compared with the model's window: {error}")
    if window is not None:
        checked = load_recipe(recipe, changes or [], window=window).resolved(window)
    if json:
        result_json([{"recipe": recipe, "valid": True, "window": window, **checked.as_dict()}])
        return
    of_window = "" if window is None else f", for a window of {window} tokens"
    result(f"{recipe} is a valid recipe of {len(checked.stages)} stages{of_window}:")
    for number, stage in enumerate(checked.stages, start=1):
        lengths = ", ".join(map(str, dict.fromkeys(stage.at_lengths)))
        result(f"  {number}. {stage.title}: {stage.kind}{f' at {lengths} tokens' if lengths else ''}")


def first_sentence(path: Path) -> str:
    """The first sentence of a recipe's opening comment."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.strip() == "#":
            break
        comment.append(line.lstrip("# "))
    return " ".join(comment)
