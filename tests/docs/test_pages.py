"""All pages: links lead somewhere, programs import only `ropewalk`, packages are listed."""

import ast
import re

import pytest
from docs_pages import ROOT, blocks

PAGES = sorted(
    str(page.relative_to(ROOT))
    for folder in (".", "docs", "benchmarks", "src/ropewalk/models/scale-model")
    for page in (ROOT / folder).glob("*.md")
)
EXTENSIONS = {"ropewalk.testing"}  # for who tests a strategy or another implementation
WITHOUT_PROGRAMS = {"docs/api.md"}  # its code blocks are signatures


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def imports(program):
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("page", sorted(set(PAGES) - WITHOUT_PROGRAMS))
def test_programs_import_nothing_deeper_than_ropewalk(page):
    for program in blocks(page, "python"):
        for module in imports(program):
            deep = module.startswith("ropewalk.")
            assert not deep or module in EXTENSIONS or module.rsplit(".", 1)[0] in EXTENSIONS, module


def test_contributing_lists_every_package():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| package .*?\n\n", text, flags=re.DOTALL | re.MULTILINE)
    first_cells = [row.split("|")[1] for row in table.splitlines()[2:] if row]
    listed = {
        name.rstrip("/").removesuffix(".py") for cell in first_cells for name in re.findall(r"`(.+?)`", cell)
    }
    entries = (ROOT / "src/ropewalk").iterdir()
    packages = {entry.stem for entry in entries if not entry.name.startswith(("_", "."))}
    assert listed == packages - {"py.typed"}
