"""Write docs/api.md, the reference of everything that `ropewalk` exports: python scripts/make_reference.py

The signatures and docstrings of the source are the only text; a test compares the page with them.
"""

import inspect
import re
from pathlib import Path
from typing import Any

import ropewalk

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# Reference

Everything that `import ropewalk` offers; nothing deeper is needed. Names load when first used, so `import ropewalk` loads no torch.
`python scripts/make_reference.py` writes this page from the docstrings.
"""


def reference() -> str:
    """The page: an index, then a section for each public name."""
    names = sorted(name for name in ropewalk.__all__ if not name.startswith("__"))
    index = "\n".join(f"- [`{name}`](#{name.lower()}): {_summary(getattr(ropewalk, name))}" for name in names)
    sections = "\n".join(_section(name, getattr(ropewalk, name)) for name in names)
    return f"{HEAD}\n{index}\n\n{sections}"


def _section(name: str, value: Any) -> str:
    lines = [f"## {name}", "", "```python", _declaration(name, value), "```", "", _docstring(value), ""]
    if inspect.isclass(value):
        for member, function in _public_methods(value):
            lines += [f"### {name}.{member}", "", "```python", _declaration(member, function), "```", ""]
            lines += [_docstring(function), ""]
    return "\n".join(lines)


def _declaration(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return f"class {name}({', '.join(base.__name__ for base in value.__bases__ if base is not object)})"
    if isinstance(value, property):
        return f"{name}  # property"
    function = getattr(value, "__func__", value)
    signature = re.sub(r"<factory>|<class '([\w.]+)'>", r"...", str(inspect.signature(function)))
    signature = re.sub(r"\b(?:[a-z_0-9]+\.)+(?=[A-Z])", "", signature)
    text = f"def {name}{signature}"
    return text if len(text) <= 100 else _one_argument_a_line(text)


def _one_argument_a_line(text: str) -> str:
    """Break after each comma that separates arguments, not inside brackets."""
    depth, parts, start = 0, [], text.index("(") + 1
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if position >= start and depth == 1 and character == ",":
            parts.append(text[start:position].strip())
            start = position + 1
        if position >= start and depth == 0:
            parts.append(text[start:position].strip())
            return text[: text.index("(") + 1] + "\n    " + ",\n    ".join(parts) + ",\n" + text[position:]
    return text


def _public_methods(value: type) -> list[tuple[str, Any]]:
    own = [(name, member) for name, member in vars(value).items() if not name.startswith("_")]
    documented = (inspect.isfunction, lambda m: isinstance(m, (classmethod, staticmethod, property)))
    return [
        (name, member)
        for name, member in own
        if any(is_kind(member) for is_kind in documented) and _raw_docstring(member)
    ]


def _raw_docstring(value: Any) -> str:
    return inspect.getdoc(getattr(value, "__func__", value)) or ""


def _summary(value: Any) -> str:
    return _raw_docstring(value).split("\n", 1)[0]


def _docstring(value: Any) -> str:
    """A docstring as Markdown: sections become bold words, their entries a list."""
    lines = []
    in_section = False
    for line in _raw_docstring(value).splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields|Example):", line):
            lines += [f"**{line[:-1]}**", ""]
            in_section = True
        elif in_section and re.match(r"    [\w.*`, ]+:", line):
            name, text = line.strip().split(":", 1)
            lines.append(f"- `{name}`:{text}")
        elif in_section and line.startswith("    "):
            lines.append("  " + line.strip())
        else:
            in_section = in_section and not line
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
