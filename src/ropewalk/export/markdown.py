"""Text of others in Markdown: it may not become a link, a table cell, HTML or a line of the front matter."""

import re
from typing import Any

import yaml

MARKS = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")
LONGEST_SHOWN = 300
YAML_COLUMNS = 100


def escape(text: object) -> str:
    """Text of others as plain text: one line, no Markdown, no HTML."""
    line = " ".join(str(text).split())
    shown = line if len(line) <= LONGEST_SHOWN else f"{line[:LONGEST_SHOWN]} ..."
    return MARKS.sub(r"\\\1", "".join(c for c in shown if c.isprintable()))


def one_line(text: str) -> str:
    """Text of others for a line of code."""
    return " ".join("".join(c for c in text if c.isprintable() and c != "`").split())


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table; its cells are escaped already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def yaml_block(values: Any) -> str:
    """JSON values as an indented block of YAML, which nothing inside can end."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=False, width=YAML_COLUMNS)
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
