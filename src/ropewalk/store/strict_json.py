"""Parses JSON that other programs wrote or a disk damaged.

Python's own parser accepts what no file of Ropewalk contains: a key twice (the last one counts), NaN and
Infinity, numbers and nesting of any size, and strings that can't be written as UTF-8. All of these are errors
here.
"""

import json
import math
from collections import Counter
from typing import Any

DEEPEST = 64
MOST_DIGITS = 64  # of an integer; the 128 bits of a generator's state have 39
SHOWN = 40  # characters of a key or number, in messages


class JsonError(ValueError):
    """Not JSON, or JSON beyond the limits of this module; the message is a part of a line."""


def parse_json(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: bytes must be UTF-8.
        allow_nan: whether to accept NaN and Infinity, which many programs write.

    Returns:
        Python values: dict, list, str, int, float, bool or None.

    Raises:
        JsonError: not one complete JSON value, or beyond the limits of this module.
    """
    constant = float if allow_nan else _refuse_constant
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            decoded, object_pairs_hook=_object, parse_int=_whole, parse_float=_finite, parse_constant=constant
        )
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise JsonError(str(error)) from None
    except RecursionError:
        raise _too_deep() from None
    _require_plain(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise JsonError(f"the key {twice[:SHOWN]!r} occurs twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise JsonError(f"the number {digits[:SHOWN]}... has more than {MOST_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise JsonError(f"the number {digits[:SHOWN]} is too large")
    return value


def _refuse_constant(name: str) -> float:
    raise JsonError(f"{name} is no finite number")


def _require_plain(value: Any) -> None:
    """Refuses deep nesting and lone surrogates; a loop, because recursion would overflow the stack."""
    level = [value]
    for _ in range(DEEPEST + 1):
        for entry in level:
            if isinstance(entry, str):
                require_text(entry)
        level = [inner for entry in level for inner in _inside(entry)]
        if not level:
            return
    raise _too_deep()


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else []


def require_text(text: str) -> None:
    """Refuses half a character (a lone surrogate), which no tokenizer, file or terminal accepts.

    Raises:
        JsonError: the text has one.
    """
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(text[error.start]).strip("'")
        raise JsonError(f"a string has a lone surrogate ({half}), which is half a character") from None


def _too_deep() -> JsonError:
    return JsonError(f"it is nested deeper than {DEEPEST} levels")
