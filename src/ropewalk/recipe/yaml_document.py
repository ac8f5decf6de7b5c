"""A recipe's text as plain values, with the place of every key; the only reader of YAML.

Anchors, tags and merge keys are refused: recipes are exchanged, and people must be able to read them.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ropewalk.errors import RecipeError, shown
from ropewalk.recipe.mistakes import KeyPath, Mistake
from ropewalk.store.strict_json import MOST_DIGITS, JsonError, require_text

LARGEST_CHARACTERS = 2**18
WHOLE = re.compile(r"[+-]?[0-9]+")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
DEEPEST = 32


@dataclass(frozen=True, kw_only=True)
class YamlDocument:
    """The content of a recipe.

    Attributes:
        values: as parsed, with what `--set` changed.
        places: where each key is: `line 12`, or `--set search.budget=12`.
        source: the file or the shipped recipe, as errors call it.
    """

    values: dict[str, Any]
    places: Mapping[KeyPath, str]
    source: str

    def place(self, path: KeyPath) -> str:
        """Where a key is, or the nearest one around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return "line 1"


def read_yaml(text: str, source: str) -> YamlDocument:
    """Read YAML into values and places.

    Raises:
        RecipeError: no YAML, not a mapping, a key twice, or something that is not read here.
    """
    if len(text) > LARGEST_CHARACTERS:
        message = f"it is longer than {LARGEST_CHARACTERS} characters"
        raise RecipeError(source, [Mistake("line 1", "", message)])
    try:
        _require_plain(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}" if mark is not None else "line 1"
        reason = " ".join(filter(None, [error.context, error.problem]))
        raise RecipeError(source, [Mistake(line, "", f"this is not YAML: {reason}")]) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(source, [Mistake("line 1", "", f"this is not YAML: {reason}")]) from None
    if not isinstance(root, yaml.MappingNode):
        what = "it is empty" if root is None else "it is not a mapping"
        message = f"{what}, but a recipe has keys like `model:` and `stages:`"
        raise RecipeError(source, [Mistake("line 1", "", message)])
    reader = _Reader()
    values = reader.value(root, ())
    if reader.mistakes:
        raise RecipeError(source, reader.mistakes)
    return YamlDocument(values=values, places=reader.places, source=source)


def with_changes(document: YamlDocument, changes: Sequence[str]) -> YamlDocument:
    """The document after `--set key=value`, each applied in turn.

    A key is a dotted path; a stage is named by its number from 0, or by its `name`. The value is YAML, so
    that `8x`, `[256, 512]` and `null` mean what they mean in the file.

    Raises:
        RecipeError: not of this form, or the path leads through something without keys.
    """
    values, places = _copy(document.values), dict(document.places)
    mistakes = []
    for change in changes:
        place = f"--set {change:.100}"
        key, sign, given = change.partition("=")
        if not sign or not all(key.split(".")):
            mistakes.append(
                Mistake(place, "", "it must be key=value, with dots in the key: search.budget=12")
            )
            continue
        try:
            if key.count(".") >= DEEPEST or len(given) > LARGEST_CHARACTERS:
                raise yaml.YAMLError
            _require_plain(given)
            node = yaml.compose(given, Loader=yaml.SafeLoader)
            reader = _Reader()
            value = None if node is None else reader.value(node, ())
        except yaml.YAMLError:
            mistakes.append(Mistake(place, "", f"{given:.60} is not YAML that is read here: quote it"))
            continue
        if reader.mistakes:
            mistakes += [Mistake(place, mistake.key, mistake.message) for mistake in reader.mistakes]
            continue
        path, problem = _put(values, key.split("."), value)
        if problem is None:
            places |= dict.fromkeys(_paths_within(path, value), place)
        mistakes += [Mistake(place, "", problem)] if problem else []
    if mistakes:
        raise RecipeError(document.source, mistakes)
    return YamlDocument(values=values, places=places, source=document.source)


class _Reader:
    """Nodes to values, noting places and what is wrong."""

    def __init__(self) -> None:
        self.places: dict[KeyPath, str] = {}
        self.mistakes: list[Mistake] = []
        self._constructor = yaml.SafeLoader("")

    def value(self, node: Any, path: KeyPath) -> Any:
        self.places.setdefault(path, f"line {node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(entry, (*path, i)) for i, entry in enumerate(node.value)]
        try:
            return self._scalar(node)
        except ValueError as error:
            line = f"line {node.start_mark.line + 1}"
            self.mistakes.append(Mistake(line, ".".join(map(str, path)), str(error)))
            return None

    def _mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), f"line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<" or not _is_text(key):
                self.mistakes.append(Mistake(line, "", "a key must be a plain word"))
                continue
            if key in found:
                dotted = ".".join(map(str, (*path, key)))
                self.mistakes.append(Mistake(line, dotted, "it is there twice: leave one out"))
                continue
            self.places[*path, key] = line
            found[key] = self.value(value_node, (*path, key))
        return found

    def _scalar(self, node: Any) -> Any:
        """Only what JSON knows. YAML 1.1 has numbers in base 8 and 60, and dates: they stay text.

        Raises:
            ValueError: a number is too large, or a string is not valid text; the message is for the user.
        """
        kind, text = node.tag.rpartition(":")[2], node.value
        if kind in ("null", "bool"):
            return self._constructor.construct_object(node)
        if node.style is None and WHOLE.fullmatch(text):
            if len(text) > MOST_DIGITS:
                raise ValueError(f"it is a number of {len(text)} digits, but at most {MOST_DIGITS} are read")
            return int(text)
        if node.style is None and DECIMAL.fullmatch(text):
            value = float(text)  # 1e-4 too, which YAML 1.1 takes for text
            if math.isinf(value):
                raise ValueError(f"it is {text:.40}, which is too large for a number")
            return value
        require_text(text)
        return text


def _is_text(text: str) -> bool:
    try:
        require_text(text)
    except JsonError:
        return False
    return True


def _require_plain(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            message = f"it is nested deeper than {DEEPEST} levels"
            raise yaml.MarkedYAMLError(problem=message, problem_mark=event.start_mark)
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor or tag:
            what = "an anchor or alias" if anchor else f"the tag {tag}"
            raise yaml.MarkedYAMLError(problem=f"{what} is not read here", problem_mark=event.start_mark)


def _put(values: dict[str, Any], keys: list[str], value: Any) -> tuple[KeyPath, str | None]:
    """Set a key in nested values; the path that it has, or why that can't be done."""
    at: Any = values
    path: KeyPath = ()
    for number, key in enumerate(keys):
        is_last = number == len(keys) - 1
        step: str | int = key
        if isinstance(at, list):
            index = _index(at, key)
            if index is None:
                return path, f"{'.'.join(map(str, path))} has no entry {shown(key)}: it has {_entries(at)}"
            step = index
        elif not isinstance(at, dict):
            return path, f"{'.'.join(map(str, path))} is {at!r}, which has no keys"
        path = (*path, step)
        if is_last:
            at[step] = value
            break
        if isinstance(at, dict) and at.get(key) is None:
            at[key] = {}
        at = at[step]
    return path, None


def _index(entries: list[Any], key: str) -> int | None:
    if key.isascii() and key.isdigit() and len(key) <= len(str(len(entries))) and int(key) < len(entries):
        return int(key)
    named = [i for i, entry in enumerate(entries) if isinstance(entry, dict) and entry.get("name") == key]
    return named[0] if named else None


def _entries(entries: list[Any]) -> str:
    names = [str(e["name"]) for e in entries if isinstance(e, dict) and e.get("name")]
    numbers = f"0 to {len(entries) - 1}" if entries else "none"
    return ", ".join([numbers, *names])


def _paths_within(path: KeyPath, value: Any) -> Iterator[KeyPath]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in inner:
        yield from _paths_within((*path, key), entry)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list) else value
