"""Text of users, files and servers, made fit to be shown: without secrets, and without control characters.

A name in a file may hold what a terminal obeys (ANSI sequences) or what turns a line around (bidirectional
overrides); a URL may hold a password.
"""

import json
import os
import re
import unicodedata

# Control, format (bidirectional overrides are of these), lone surrogates, line and paragraph separators.
ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY")
SHORTEST_SECRET = 8  # of a variable: less may stand anywhere by chance
HIDDEN = "***"
# A password may hold an unescaped @ or /, so what follows a colon is hidden up to the last @ of a word. A URL
# that was taken for a path has lost one of its slashes.
_LOGIN = re.compile(r"([A-Za-z][\w+.-]+:/{1,2})(?:[^\s/?#:@]*:\S*|[^\s/?#]*)@")
_PARAMETER = re.compile(
    r"(?i)([?&;#][^\s=&;#'\"]*(?:key|token|secret|pass|pwd|sig|auth|cred)[^\s=&;#'\"]*=)[^\s&;#'\"]+"
)
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,})|(?i:(?<=\bbearer )|(?<=\bbasic ))\S{8,}")


def escaped(text: str, *, keep: str = "") -> str:
    r"""The text with whatever is no visible character written as JSON does: `\u001b`.

    Args:
        keep: characters that stay, such as a line feed.
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
