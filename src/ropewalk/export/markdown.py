"""Jinja templates that write Markdown: every value is escaped unless it is marked as `Markdown`.

Names, notes and recipes in a model card come from files of other people. In the card they must not become a
link, a table cell, HTML or a line of the front matter, and they must not show folders of this machine.
"""

import re
import shlex
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import jinja2
import yaml

from ropewalk.text.sources import HUB_NAME

SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")
CODE_SPAN = re.compile(r"`([^`]+)`")
LOCAL_PATH = re.compile(
    r"(?<![\w./])(?!(?<=:)//)(?:~\w*|\.{1,2})?/[^\s'\"]+"  # not the path of a URL
    r"|(?<!\w)[A-Za-z]:[\\/][^\s'\"]+"
)
RELATIVE_PATH = re.compile(r"(?!\w+://)\S*[/\\]\S*")
MAX_CHARACTERS = 300
YAML_COLUMNS = 100


class Markdown(str):
    """Text that is Markdown already; templates do not escape it."""

    __slots__ = ()


def render_markdown(template: Path, **values: Any) -> str:
    """Fill in a Jinja template.

    Besides Jinja's own filters, a template has `name`, `prose`, `python`, `row`, `shell` and `yaml`: the
    functions below.

    Args:
        template: the file.
        values: the template's variables. A value of another type than `Markdown` is escaped.
    """
    environment = jinja2.Environment(
        autoescape=False,  # for HTML; `finalize` escapes for Markdown
        finalize=_escape_unless_markdown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": public_name,
        "prose": escape_prose,
        "python": python_literal,
        "row": table_row,
        "shell": shell_word,
        "yaml": yaml_block,
    }
    return environment.from_string(template.read_text(encoding="utf-8")).render(values)


def escape(text: object) -> Markdown:
    """One line of plain text: no Markdown, no HTML, no folder of a local path, at most 300 characters."""
    line = " ".join(without_folders(str(text)).split())
    shown = line if len(line) <= MAX_CHARACTERS else f"{line[:MAX_CHARACTERS]} ..."
    return Markdown(SPECIAL.sub(r"\\\1", _printable(shown)))


def escape_prose(text: str) -> Markdown:
    """As `escape`, but code spans stay code, in a table cell too."""
    pieces = CODE_SPAN.split(text)  # at odd places the content of a code span
    return Markdown(
        "".join(
            _code_span(piece) if place % 2 else _escape_piece(piece) for place, piece in enumerate(pieces)
        )
    )


def public_name(text: str) -> str:
    """The name of a model or of a text without folders of this machine.

    A name on the hub or of a bundled text stays. Of a local path only the last part is left.
    """
    is_path = (
        LOCAL_PATH.match(text) or _exists(text) or (RELATIVE_PATH.fullmatch(text) and not is_hub_name(text))
    )
    return _last_part(text) if is_path else without_folders(text)


def is_hub_name(text: str) -> bool:
    """Whether this is the name of a model or a data set on the hub, and not of a local folder."""
    return HUB_NAME.fullmatch(text) is not None and not _exists(text)


def without_folders(text: str) -> str:
    """The text with every absolute path, and every path from `~`, `.` or `..`, cut to its last part."""
    return LOCAL_PATH.sub(lambda found: _last_part(found[0]), text)


def python_literal(text: str) -> Markdown:
    """A string literal for a line of Python in a code block."""
    return Markdown(repr(_code_line(text)))


def shell_word(text: str) -> Markdown:
    """One word for a shell's command line in a code block."""
    return Markdown(shlex.quote(_code_line(text)))


def table_row(cells: Iterable[object]) -> Markdown:
    """A row of a table, with its cells escaped."""
    return Markdown(f"| {' | '.join(map(_escape_unless_markdown, cells))} |")


def yaml_block(values: Any) -> Markdown:
    """JSON values as an indented code block of YAML, with names in place of local paths."""
    text = yaml.safe_dump(_public_values(values), sort_keys=False, allow_unicode=False, width=YAML_COLUMNS)
    return Markdown(textwrap.indent(text.rstrip(), "    "))


def _escape_unless_markdown(value: object) -> Markdown:
    return value if isinstance(value, Markdown) else escape(value)


def _public_values(values: Any) -> Any:
    if isinstance(values, str):
        return public_name(values)
    if isinstance(values, Mapping):
        return {key: _public_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_public_values(value) for value in values]
    return values


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or not a path
        return False


def _last_part(path: str) -> str:
    """The last part of a POSIX or a Windows path."""
    return PureWindowsPath(path).name or path


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def _code_line(text: str) -> str:
    return " ".join(_printable(text).replace("`", "").split())


def _code_span(text: str) -> str:
    return f"`{_code_line(text)}`".replace("|", "\\|")


def _escape_piece(text: str) -> str:
    """As `escape`, but keeps the spaces at both ends."""
    return f"{' ' * text[:1].isspace()}{escape(text)}{' ' * text[-1:].isspace()}"
