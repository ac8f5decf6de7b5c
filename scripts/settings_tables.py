"""The tables of settings in the documentation, generated from the settings classes.

    python scripts/settings_tables.py            # write them into docs/
    python scripts/settings_tables.py --check    # exit code 1 if a table differs

A table follows a comment: `<!-- keys of SearchSettings -->` for keys of a recipe, `<!-- options of
SearchSettings -->` for options of the command line, `<!-- keys of stages -->` for all kinds of stage.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ropewalk.cli.from_settings import option_name, value_type
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.finetune.data.settings import MixtureSettings, SourceSettings
from ropewalk.finetune.settings import FinetuneSettings, LoraSettings
from ropewalk.models.settings import ModelSettings
from ropewalk.recipe.schema import Accept, PasskeyLimit, Recipe
from ropewalk.recipe.stages import AnyStage, Stage
from ropewalk.search.settings import SearchSettings
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.text.settings import TextSplit
from ropewalk.units import MOST

DOCS = Path(__file__).parents[1] / "docs"
CLASSES: dict[str, type[BaseModel]] = {
    settings.__name__: settings
    for settings in (
        Recipe, ModelSettings, TextSplit, SearchSettings, Accept, PasskeyLimit, FinetuneSettings,
        LoraSettings, MixtureSettings, SourceSettings, WorkerSettings, RetrievalSettings,
    )
}  # fmt: skip
STAGES: dict[str, type[Stage]] = {
    stage.model_fields["kind"].annotation.__args__[0]: stage for stage in get_args(get_args(AnyStage)[0])
}
REQUIRED = "must be given"
MARKER = re.compile(r"<!-- (keys|options) of (\w+) -->\n\n(.*?)\n(?=\n|\Z)", re.DOTALL)


def table(what: str, name: str) -> str:
    """The table of a marker."""
    if name == "stages":
        return _lines(["kind", "key", "default", "range", ""], list(_stage_rows()))
    fields = CLASSES[name].model_fields
    if what == "options":
        rows = [
            [f"`{option_name(key, field)}`", *_cells(field)]
            for key, field in fields.items()
            if not field.is_required() and value_type(field) is not None
        ]
        return _lines(["option", "default", "range", ""], rows)
    return _lines(
        ["key", "default", "range", ""], [[f"`{key}`", *_cells(field)] for key, field in fields.items()]
    )


def with_tables(text: str) -> str:
    """A page with every table of a known class as it is generated now."""

    def generated(found: re.Match[str]) -> str:
        what, name = found[1], found[2]
        if name not in CLASSES and name != "stages":
            return found[0]
        return f"<!-- {what} of {name} -->\n\n{table(what, name)}\n"

    return MARKER.sub(generated, text)


def _stage_rows() -> Any:
    """Keys of every stage, then each kind's own."""
    yield from (["every", f"`{key}`", *_cells(field)] for key, field in Stage.model_fields.items())
    for kind, stage in STAGES.items():
        for key, field in stage.model_fields.items():
            if key not in Stage.model_fields:
                yield [f"`{kind}`", f"`{key}`", *_cells(field)]


def _cells(field: FieldInfo) -> list[str]:
    return [_default(field), _range(field), (field.description or "").replace("|", "\\|")]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = {}
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _range(field: FieldInfo) -> str:
    """The allowed values: words, or the ends of a range. Upper ends from `MOST` on are left out."""
    words = [word for kind in _members(field.annotation) for word in get_args(kind) if isinstance(word, str)]
    ends: dict[str, float] = {}
    for rule in field.metadata:
        ends |= {name: getattr(rule, name) for name in ("ge", "gt", "le", "lt") if hasattr(rule, name)}
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [f"{signs[name]} {ends[name]}" for name in signs if name in ends and ends[name] < MOST]
    return ", ".join([f"`{word}`" for word in words] + limits)


def _members(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))


def _lines(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(" ".join(["|", *(f"{cell} |".lstrip() for cell in cells)]) for cells in lines)


def main() -> int:
    is_check, differing = "--check" in sys.argv, []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (made := with_tables(text)) != text:
            differing.append(page.name)
            if not is_check:
                page.write_text(made, encoding="utf-8")
    for name in differing:
        print(f"{name}: {'differs from' if is_check else 'written from'} the settings")
    return 1 if differing and is_check else 0


if __name__ == "__main__":
    sys.exit(main())
