"""Lengths in tokens as a user writes them, and the largest numbers that a user may give."""

import re

from ropewalk.errors import SettingError, shown

LONGEST = 2**30  # tokens; above the window of any model
MOST = 10**6  # of documents, prompts, evaluations, knots; more would take years
LARGEST_SEED = 2**63 - 1  # the largest seed that every generator accepts
ATTENTION_FACTORS = (0.01, 100.0)  # the smallest and the largest attention factor
MOST_CHARACTERS = 40


def parse_length(text: str, original_length: int, what: str = "A length") -> int:
    """`8x` (times the window), `32768`, `32k` (x 1024) as tokens.

    Raises:
        SettingError: none of these, not above 0, or above `LONGEST`.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([xXkK]?)\s*", text[: MOST_CHARACTERS + 1])
    tokens = 0.0
    if match and len(text) <= MOST_CHARACTERS:
        unit = {"x": original_length, "k": 1024, "": 1}[match[2].lower()]
        tokens = float(match[1]) * unit
    elif re.fullmatch(r"\s*[0-9.]+\s*[xXkK]?\s*", text):
        tokens = float(LONGEST + 1)
    if tokens > LONGEST:
        raise SettingError(f"{what} is {shown(text)}, but must be at most {LONGEST} tokens.")
    if tokens < 1 or tokens != int(tokens):
        raise SettingError(
            f"{what} is {shown(text)}, but must be tokens (32768 or 32k) or a multiple of the window (8x)."
        )
    return int(tokens)
