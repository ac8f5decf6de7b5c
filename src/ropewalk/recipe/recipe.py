"""Recipe: the rooms' settings composed, and the stages that use them; read from YAML, checked as a whole."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path as FilePath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ropewalk.errors import RopewalkError
from ropewalk.lengths import parse_length
from ropewalk.models.settings import ModelSettings
from ropewalk.recipe.document import Document, Path, read_document, with_changes
from ropewalk.recipe.mistakes import Mistake, RecipeError, explain, suggest
from ropewalk.recipe.order import order_mistakes
from ropewalk.recipe.stages import AnyStage, FinetuneStage, Length, ReadjustStage, SearchStage, Stage
from ropewalk.search.settings import SearchChoices
from ropewalk.text.settings import TextSettings

FOLDER = FilePath(__file__).parents[1] / "recipes"
SUFFIXES = (".yaml", ".yml")
ANY_WINDOW = 4096  # where the model's is not known, to check settings that need some number of tokens


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PasskeyLimit(_Strict):
    """At least this share of passkeys at a length, at the interval's lower end."""

    length: Length
    at_least: float = Field(gt=0, le=1)


class Accept(_Strict):
    """What the result must hold, each judged on its interval's bad end.

    Attributes:
        short_nll_rise: nats a token that inputs of the original window may lose against the base model.
        passkey: what must be found.
    """

    short_nll_rise: float | None = None
    passkey: tuple[PasskeyLimit, ...] = ()


class Recipe(_Strict):
    """Everything that `ropewalk extend` needs.

    Attributes:
        search: what all searches share; a stage may say otherwise.
        finetune: what all trainings share, as the fields of `FinetuneSettings`.
        data: what trainings read, as the fields of `MixtureSettings`.
    """

    model: ModelSettings
    text: TextSettings = TextSettings()
    search: SearchChoices = SearchChoices()
    finetune: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] | None = None
    stages: Annotated[tuple[AnyStage, ...], Field(min_length=1)]
    accept: Accept = Accept()

    def resolved(self, window: int) -> "Recipe":
        """The same with every length in tokens, and in every stage what it takes from the sections above."""
        stages = tuple(self._resolve(stage, window) for stage in self.stages)
        passkey = tuple(
            limit.model_copy(update={"length": _tokens(limit.length, window)})
            for limit in self.accept.passkey
        )
        accept = self.accept.model_copy(update={"passkey": passkey})
        return self.model_copy(update={"stages": stages, "accept": accept})

    def as_dict(self) -> dict[str, Any]:
        """JSON values of what decides how things are made; `accept` only judges them."""
        return self.model_dump(mode="json", exclude={"accept"})

    def finetune_settings(self, stage: FinetuneStage) -> Any:
        """The `FinetuneSettings` of a resolved stage."""
        return finetune_settings_class().model_validate(_merged(stage.model_dump(), self.finetune))

    def mixture_settings(self) -> Any:
        """The `MixtureSettings` of what is trained on."""
        return mixture_settings_class().model_validate(self.data or {})

    def _resolve(self, stage: Stage, window: int) -> Stage:
        changes: dict[str, Any] = {"name": stage.title}
        for field in ("length", "lengths", "perplexity", "passkey"):
            value = getattr(stage, field, None)
            if isinstance(value, tuple):
                changes[field] = tuple(sorted(_tokens(entry, window) for entry in value))
            elif value is not None:
                changes[field] = _tokens(value, window)
        if isinstance(stage, (SearchStage, ReadjustStage)):
            shared = {**self.search.said(), **self.text.model_dump()}
            for field in (*SearchChoices.model_fields, "num_documents", "num_stop_documents"):
                if getattr(stage, field) is None:
                    changes[field] = shared[field]
        return stage.model_copy(update=changes)


def finetune_settings_class() -> Any:
    """`FinetuneSettings`, imported when a recipe trains."""
    return import_module("ropewalk.finetune.settings").FinetuneSettings


def mixture_settings_class() -> Any:
    """`MixtureSettings`, imported when a recipe trains."""
    return import_module("ropewalk.text.mixture").MixtureSettings


def shipped_recipes() -> dict[str, FilePath]:
    """Those that come with Ropewalk, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def recipe_text(name: str) -> tuple[str, str]:
    """A recipe's text, and what errors call it: a shipped one by its name, or a file.

    Raises:
        RecipeError: neither of the two, or not readable.
    """
    shipped = shipped_recipes()
    path = shipped.get(name, FilePath(name).expanduser())
    if not path.is_file():
        near = suggest(name, shipped)
        message = f"there is no such recipe{near}: name a file, or one of {', '.join(shipped)}"
        raise RecipeError(name, [Mistake("looked for as a file and a shipped recipe", "", message)])
    try:
        return path.read_text(encoding="utf-8"), path.name if name in shipped else name
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise RecipeError(name, [Mistake("the file", "", f"can't be read: {said}")]) from None


def load_recipe(name: str, changes: Sequence[str] = (), *, window: int | None = None) -> Recipe:
    """Read a recipe and check it.

    Args:
        name: a shipped recipe's name, or a file.
        changes: `key=value`, as `--set` takes them.
        window: L of its model, tokens; None checks no length against another.

    Raises:
        RecipeError: every mistake, each with its line.
    """
    document = with_changes(read_document(*recipe_text(name)), changes)
    return parse_recipe(document, window=window)


def parse_recipe(document: Document, *, window: int | None = None) -> Recipe:
    """As `load_recipe`, of what was read."""
    found = list(_trained_mistakes(document.values, window))
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


def _error(document: Document, found: Sequence[tuple[Path, str]]) -> RecipeError:
    mistakes = [
        Mistake(document.place(path), ".".join(map(str, path)), message)
        for path, message in dict.fromkeys(found)
    ]
    return RecipeError(document.source, sorted(mistakes, key=_by_line))


def _by_line(mistake: Mistake) -> tuple[int, str]:
    word, _, number = mistake.place.partition(" ")
    return (int(number), "") if word == "line" and number.isdigit() else (10**9, mistake.place)


def _trained_mistakes(values: Mapping[str, Any], window: int | None) -> Iterator[tuple[Path, str]]:
    """What is wrong with settings that belong to rooms which only a training recipe needs."""
    stages, shared = values.get("stages"), values.get("finetune")
    trains = False
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(stage, dict) and stage.get("kind") == "finetune":
            trains = True
            for key, message in _finetune_mistakes(stage, shared if isinstance(shared, dict) else {}, window):
                in_stage = not key or key[0] in stage or key[0] not in (shared or {})
                yield (("stages", index, *key) if in_stage else ("finetune", *key)), message
    data = values.get("data")
    if trains and not data:
        yield ("data",), "there is a finetune stage, but no text to train on: give `data:` with `sources:`"
    elif isinstance(data, dict):
        settings = mixture_settings_class()
        try:
            settings.model_validate(data)
        except ValidationError as error:
            yield from ((("data", *path), message) for path, message in explain(error, settings, data))


def _finetune_mistakes(
    stage: Mapping[str, Any], shared: Mapping[str, Any], window: int | None
) -> Iterator[tuple[Path, str]]:
    settings = finetune_settings_class()
    merged = _merged(stage, shared)
    try:
        merged["length"] = parse_length(str(merged.get("length")), window or ANY_WINDOW)
        settings.model_validate(merged)
    except ValidationError as error:
        yield from explain(error, settings, merged)
    except RopewalkError:
        pass  # the length's own mistake is found by the stage


def _merged(stage: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """What `FinetuneSettings` are made from: the shared ones, and over them the stage's."""
    own = {key: value for key, value in stage.items() if key not in ("kind", "name", "factors")}
    return {**shared, **own}


def _tokens(length: int | str, window: int) -> int:
    return parse_length(str(length), window)
