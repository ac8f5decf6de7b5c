"""Lengths as a user writes them: `8x` (times the window), `32768`, or `32k`."""

import re

from ropewalk.errors import SettingError


def parse_length(text: str, original_length: int, what: str = "A length") -> int:
    """`8x` (times the window), `32768` or `32k` (x 1024) as tokens.

    Raises:
        SettingError: none of these, or not above 0.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([xXkK]?)\s*", text)
    tokens = 0.0
    if match:
        unit = {"x": original_length, "k": 1024, "": 1}[match[2].lower()]
        tokens = float(match[1]) * unit
    if not match or tokens < 1 or tokens != int(tokens):
        raise SettingError(
            f"{what} is {text!r}, but must be tokens (32768 or 32k) or a multiple of the window (8x)."
        )
    return int(tokens)
