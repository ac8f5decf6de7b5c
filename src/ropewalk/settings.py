"""Settings: frozen values that check themselves, with the default, range and description of each field.

The command line's options, the keys of recipes, the keyword arguments in Python and the tables in the
documentation are derived from these classes.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ropewalk.errors import SettingError, shown


class Settings(BaseModel):
    """Base class of every settings class.

    Raises:
        SettingError: from the constructor, every mistake on one line; for an unknown name, the nearest one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(all_mistakes(error, type(self))) from None

    # pydantic then validates nested settings by itself, so that each mistake keeps its path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def checked(cls, values: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})) -> Self:
        """Settings from a mapping.

        Args:
            names: the name of a field in errors, if it differs from the field's, e.g. an option of a command.

        Raises:
            SettingError: every mistake, on one line.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingError(all_mistakes(error, cls, names)) from None

    def given(self) -> dict[str, Any]:
        """The fields that the caller gave, without those that have their default."""
        return {
            name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set
        }


def all_mistakes(
    error: ValidationError, settings: type[BaseModel], names: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Every mistake that pydantic found, on one line."""
    lines = []
    for entry in error.errors():
        key = ".".join(names.get(str(part), str(part)) for part in entry["loc"])
        message = in_words(entry, settings.model_fields)
        lines.append(f"{key}: {message}" if key else message)
    return f"{'; '.join(dict.fromkeys(lines)).rstrip('.')}."


def in_words(entry: Any, known: Collection[str]) -> str:
    """One mistake that pydantic found, in words: what was given, the rule, what to do.

    Args:
        entry: one of `ValidationError.errors()`.
        known: the valid keys at this place.
    """
    kind, given, context = entry["type"], entry.get("input"), entry.get("ctx", {})
    if kind == "extra_forbidden":
        near = suggest(str(entry["loc"][-1]), known)
        return f"there is no such key{near}" if near else f"there is no such key; there are {listed(known)}"
    if kind == "missing":
        return f"it is missing: give {str(entry['loc'][-1])!r}"
    if kind == "union_tag_not_found":
        return "it is missing: give 'kind'"
    if kind == "union_tag_invalid":
        tags, tag = _quoted(context["expected_tags"]), str(context["tag"])
        return f"there is no kind {shown(tag)}{suggest(tag, tags)}: there are {listed(tags)}"
    if kind == "literal_error":
        choices = _quoted(context["expected"])
        return f"it is {given!r:.60}{suggest(str(given), choices)}, but must be one of {', '.join(choices)}"
    message = str(entry["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if kind == "value_error":
        return message
    return f"it is {_short(given)}, but {re.sub('^[a-z]+ should', 'it should', message)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """` (do you mean 'budget'?)` for the nearest known name, or nothing."""
    close = get_close_matches(name, sorted(known), n=1)
    return f" (do you mean {close[0]!r}?)" if close else ""


def listed(names: Iterable[str]) -> str:
    """The names in alphabetical order."""
    return ", ".join(sorted(filter(None, names)))


def _quoted(text: Any) -> list[str]:
    """`'a', 'b' or 'c'` as a list."""
    return re.findall(r"'([^']*)'", str(text))


def _short(given: Any) -> str:
    try:
        return f"{given!r:.60}"
    except ValueError:  # Python does not print an integer of more than 4300 digits
        return shown(given)
