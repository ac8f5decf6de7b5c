"""Write docs/api.md, the reference of the public names of `ropewalk`: python scripts/make_reference.py

Signatures, fields and docstrings of the source are its only text. A test compares the page with them.
"""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import ropewalk

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# Reference

All public names. `import ropewalk` is enough: a name is imported when it is first used. [Python](python.md) shows them in programs.
`python scripts/make_reference.py` writes this page from the source.
"""  # noqa: E501
TOPICS = {  # package: title, in the order of the data flow
    "factors": "Factors",
    "rope": "Closed-form schemes and the formula",
    "models": "Models",
    "text": "Text",
    "evaluate": "Measuring",
    "search": "Search",
    "finetune": "Training",
    "runtime": "Runtime",
    "export": "Export",
    "verify": "Verification",
    "report": "Planning and reports",
    "recipe": "Recipes",
    "errors": "Errors",
}
LONGEST_LINE = 100
SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Yields|Example|Examples|Note):")


def reference() -> str:
    """The page: an index by topic, then a section for each public name."""
    topics: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for name in ropewalk.__all__:
        topics[getattr(ropewalk, name).__module__.split(".")[1]].append(name)
    index, sections = [], []
    for topic, names in topics.items():
        links = ", ".join(f"[`{name}`](#{name.lower()})" for name in names)
        if names:
            index.append(f"- {TOPICS[topic]}: {links}")
            sections += [f"## {TOPICS[topic]}", "", *(_section(name) for name in names)]
    return "\n".join([HEAD, *index, "", *sections])


def _section(name: str) -> str:
    value = getattr(ropewalk, name)
    lines = [f"### {name}", "", *_code(_declaration(name, value)), _docstring(value), ""]
    if inspect.isclass(value):
        if issubclass(value, BaseModel):
            lines += [*_fields(value), ""]
        for member, method in _public_members(value):
            lines += [
                f"#### {name}.{member}",
                "",
                *_code(_declaration(member, method)),
                _docstring(method),
                "",
            ]
    return "\n".join(lines)


def _code(text: str) -> list[str]:
    return ["```python", text, "```", ""]


def _declaration(name: str, value: Any) -> str:
    """A signature as it stands in the source, with short names of types."""
    if isinstance(value, property):
        assert value.fget
        return f"{name}: {_short(inspect.formatannotation(inspect.signature(value.fget).return_annotation))}"
    if inspect.isclass(value) and not dataclasses.is_dataclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        return f"class {name}({bases})" if bases else f"class {name}"
    keyword = "class" if inspect.isclass(value) else "def"
    signature = str(inspect.signature(getattr(value, "__func__", value)))
    if inspect.isclass(value):
        signature = signature.removesuffix(" -> None")
    decorator = "@classmethod\n" if isinstance(value, classmethod) else ""
    text = f"{decorator}{keyword} {name}{_short(signature)}"
    return text if len(text) <= LONGEST_LINE else _one_argument_per_line(text)


def _short(text: str) -> str:
    """Types without their modules and without quotes, factories as `...`."""
    text = re.sub(r"<factory>|<(?:class|function|object)[^>]*>", "...", text)
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return re.sub(r"(?<!['\w.])(?:[a-z_0-9]+\.)+(?=[A-Za-z])", "", text)


def _one_argument_per_line(text: str) -> str:
    """Break after each comma that separates arguments, not inside of brackets."""
    start = text.index("(") + 1
    depth, begin, parts = 1, start, list[str]()
    for position in range(start, len(text)):
        character = text[position]
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 or (depth == 1 and character == ","):
            parts.append(f"    {text[begin:position].strip()},\n")
            begin = position + 1
        if depth == 0:
            return text[:start] + "\n" + "".join(parts) + text[position:]
    raise ValueError(text)


def _fields(settings: type[BaseModel]) -> list[str]:
    """The fields of a settings class with defaults and descriptions."""
    rows = ["| field | default | |", "| --- | --- | --- |"]
    for name, field in settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "must be given" if default is PydanticUndefined else f"`{default!r}`"
        rows.append(f"| `{name}` | {shown} | {field.description or ''} |")
    return rows


def _public_members(value: type) -> list[tuple[str, Any]]:
    """Documented methods and properties of a class and its bases; of a settings class only its own."""
    bases = (value,) if issubclass(value, BaseModel) else value.__mro__
    members = {
        name: member
        for base in reversed(bases)
        if base.__module__.startswith("ropewalk.")
        for name, member in vars(base).items()
        if not name.startswith("_")
    }
    kinds = (classmethod, staticmethod, property)
    return [
        (name, member)
        for name, member in members.items()
        if (inspect.isfunction(member) or isinstance(member, kinds)) and _raw_docstring(member)
    ]


def _raw_docstring(value: Any) -> str:
    return inspect.getdoc(getattr(value, "__func__", value)) or ""


def _docstring(value: Any) -> str:
    """A docstring as Markdown: sections become bold words, their entries lists, examples code."""
    lines: list[str] = []
    section = ""
    for line in _raw_docstring(value).splitlines():
        if match := SECTION.fullmatch(line):
            section = match[1]
            lines += [f"**{section}**", ""]
        elif not line or not line.startswith("    "):
            section = "" if line else section
            lines.append(line)
        elif section.startswith("Example") or not section:
            lines.append(line)  # four spaces: code in Markdown
        elif match := re.fullmatch(r"    (?! )([\w.*`, ]+): *(.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        elif section in ("Returns", "Yields", "Note"):
            lines.append(line.strip())
        else:
            lines.append("  " + line.strip())
    return "\n".join(lines).strip()


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
