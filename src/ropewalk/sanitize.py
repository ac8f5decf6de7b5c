"""Makes text of users, files and servers safe to print: without secrets, and without control characters.

A name in a file may contain ANSI sequences, which a terminal executes, or bidirectional overrides, which
reverse a line; a URL may contain a password.
"""

import json
import os
import re
import unicodedata

# Control, format (such as bidirectional overrides), lone surrogates, line and paragraph separators.
ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY")
SHORTEST_SECRET = 8  # characters of a variable; a shorter one may be part of any word
HIDDEN = "***"
# A password may contain an unescaped @ or /, so what follows a colon is hidden up to the last @ of a word. A
# URL that became a path has lost one of its slashes.
_LOGIN = re.compile(r"([A-Za-z][\w+.-]+:/{1,2})(?:[^\s/?#:@]*:\S*|[^\s/?#]*)@")
_PARAMETER = re.compile(
    r"(?i)([?&;#][^\s=&;#'\"]*(?:key|token|secret|pass|pwd|sig|auth|cred)[^\s=&;#'\"]*=)[^\s&;#'\"]+"
)
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,})|(?i:(?<=\bbearer )|(?<=\bbasic ))\S{8,}")


def escaped(text: str, *, keep: str = "") -> str:
    r"""The text with every invisible character as JSON writes it: `\u001b`.

    Args:
        text: any text.
        keep: characters to leave unchanged, such as a line feed.
    """
    if text.isprintable():
        return text
    return "".join(
        json.dumps(character)[1:-1]
        if unicodedata.category(character) in ESCAPED and character not in keep
        else character
        for character in text
    )


def redacted(text: str) -> str:
    """The text without passwords and keys: of URLs, of the environment, and in the form of known tokens."""
    for variable in SECRET_VARIABLES:
        secret = os.environ.get(variable, "").strip()
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    text = _LOGIN.sub(rf"\1{HIDDEN}@", text)
    text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)
