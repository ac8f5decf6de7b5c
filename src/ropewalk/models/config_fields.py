"""Checked values of a configuration: each has the required type and size.

A configuration may come from any source. A value of a wrong type, or one that no model has, raises an error
of one line that names the key, instead of a traceback or an allocation.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ropewalk.errors import ModelError, RopewalkError, shown

# Of layers, experts, labels: transformers creates them one by one, some when it reads a configuration.
LARGEST_COUNT = 10**6
COUNTS = re.compile(r"(num|n)_(?!positions|ctx)|.*(layer|label|expert|block|dense_replace)")
LARGEST_NUMBER = 1e18  # of any number in a configuration; no size or length is larger


@contextmanager
def read_by_transformers(name: str) -> Iterator[None]:
    """Convert any exception of transformers' code for a configuration to an error of one line.

    Raises:
        ModelError: with the last line of the original message.
    """
    try:
        yield
    except RopewalkError:
        raise
    except Exception as error:  # a family's code may raise any class for a wrong value
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
        raise ModelError(
            f"{name} can't be read as a model's configuration ({reason[:200].rstrip('.')}): correct its "
            f"config.json."
        ) from error


def require_countable(config: Mapping[str, Any], name: str) -> None:
    """Refuse a config.json with counts that would take transformers very long, or fill the memory.

    Raises:
        ModelError: a count is larger than that of any model.
    """
    parts: list[Any] = [config]
    while parts:
        part = parts.pop()
        parts += part.values() if isinstance(part, Mapping) else []
        for key, value in part.items() if isinstance(part, Mapping) else ():
            if COUNTS.match(str(key)) and isinstance(value, (int, float)) and value > LARGEST_COUNT:
                raise Fields(config, name).wrong(str(key), value, f"a count, up to {LARGEST_COUNT}")


def _is_number(value: object) -> bool:
    # NaN fails every comparison; an integer may be too large for a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= LARGEST_NUMBER


class Fields:
    """The fields of a configuration, read by type.

    Attributes:
        name: the model's name in errors.
    """

    def __init__(self, values: Any, name: str) -> None:
        self.name = name
        self._values = values

    def get(self, field: str, default: Any = None) -> Any:
        """The unchecked value, of an object or a dictionary."""
        if isinstance(self._values, Mapping):
            return self._values.get(field, default)
        with read_by_transformers(self.name):
            return getattr(self._values, field, default)

    def dictionary(self, field: str) -> dict[str, Any]:
        """A dictionary with names as keys; empty if absent."""
        value = self.get(field)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(field, value, "a dictionary")
        return dict(value or {})

    def number(self, field: str) -> float | None:
        """A finite number, None if absent."""
        value = self.get(field)
        if value is None:
            return None
        if not _is_number(value):
            raise self.wrong(field, value, f"a number, up to {LARGEST_NUMBER:g}")
        return float(value)

    def whole(self, field: str) -> int | None:
        """A whole number, None if absent."""
        number = self.number(field)
        if number is None:
            return None
        if not number.is_integer():
            raise self.wrong(field, number, "a whole number")
        value = self.get(field)
        return value if isinstance(value, int) else int(number)

    def size(self, field: str) -> int | None:
        """A whole number above 0, None if absent or 0."""
        value = self.whole(field)
        if value is not None and value < 0:
            raise self.wrong(field, value, "a whole number above 0")
        return value or None

    def required(self, field: str) -> int:
        """A whole number above 0; a missing one is an error."""
        value = self.size(field)
        if value is None:
            raise self.refuse(f"its configuration does not say `{field}`")
        return value

    def numbers(self, field: str) -> list[float]:
        """A list of finite numbers; a missing one is an error."""
        value = self.get(field)
        if not isinstance(value, (list, tuple)):
            raise self.wrong(field, value, "a list of numbers")
        for entry in value:
            if not _is_number(entry):
                raise self.wrong(field, entry, f"a list of numbers, up to {LARGEST_NUMBER:g}")
        return [float(entry) for entry in value]

    def entries(self, field: str, num_entries: int) -> list[Any] | None:
        """A list with a value for each layer, None if absent."""
        value = self.get(field)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) < num_entries:
            raise self.wrong(field, value, f"a list of an entry for each of {num_entries} layers")
        return list(value[:num_entries])

    def wrong(self, field: str, value: object, rule: str) -> ModelError:
        """The error for a value that breaks a rule."""
        return self.refuse(f"`{field}` of its configuration is {shown(value)}, but must be {rule}")

    def refuse(self, reason: str) -> ModelError:
        """The error for a model that can't be extended."""
        return ModelError(f"{self.name} can't be extended: {reason}.")
