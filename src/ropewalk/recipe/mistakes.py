"""The mistakes of a recipe: every one at once, each with its line, the rule, and the nearest known key."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ropewalk.settings import in_words

KeyPath = tuple[str | int, ...]  # of a value in a recipe: keys, and numbers in lists


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        place: `line 12`, or `--set key=value`.
        key: dotted; empty for the whole.
        message: what was given, the rule, what to do.
    """

    place: str
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {f'{self.key:.100}: ' if self.key else ''}{self.message.rstrip('.')}."


def explain(
    error: ValidationError, root: type[BaseModel], values: Any, others: Iterable[str] = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Every mistake that pydantic found: the path in the values, and a message in words.

    Args:
        root: the model that was validated.
        values: what it was validated from; pydantic's names for branches of a union are no part of it.
        others: further keys that are allowed there, to suggest them.
    """
    for entry in error.errors():
        path = _path_in(values, entry["loc"])
        known = {name for model in models_at(root, path[:-1], entry["loc"]) for name in model.model_fields}
        yield path, in_words(entry, known | (set(others) if len(path) == 1 else set()))


def _path_in(values: Any, location: Sequence[str | int]) -> KeyPath:
    """The keys of a location that the values have; the last one may be missing there."""
    at: Any = values
    path: KeyPath = ()
    for number, part in enumerate(location):
        exists = (isinstance(at, dict) and part in at) or (
            isinstance(at, list) and isinstance(part, int) and part < len(at)
        )
        if exists:
            at, path = at[part], (*path, part)
        elif number == len(location) - 1 and isinstance(at, dict) and isinstance(part, str):
            path = (*path, part)
    return path


def models_at(
    root: type[BaseModel], path: KeyPath, location: Sequence[str | int] = ()
) -> list[type[BaseModel]]:
    """The models that are possible at a path; a union's tag in `location` says which."""
    current = [root]
    for key in path:
        if isinstance(key, str):
            fields = [model.model_fields[key] for model in current if key in model.model_fields]
            current = [model for field in fields for model in _models_in(field.annotation)]
    tagged = [
        model
        for model in current
        if "kind" in model.model_fields
        and any(part in get_args(model.model_fields["kind"].annotation) for part in location)
    ]
    return tagged or current


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
