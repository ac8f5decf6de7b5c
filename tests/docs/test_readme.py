"""The README is run, not believed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def run(arguments, folder):
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_commands_of_the_readme_run_in_their_order(tmp_path):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) >= 5
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "ropewalk"
        result = run(["-m", "ropewalk", *arguments], tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout.strip(), line
    assert (tmp_path / "runs/mine/factors.json").is_file()


def test_the_python_of_the_readme_runs(tmp_path):
    (program,) = blocks("python")
    result = run(["-W", "error", "-c", program], tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "factors.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tree_of_the_readme_is_the_tree():
    (tree,) = re.findall(r"^src/ropewalk/\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"^[├└]── (\w+)", tree, flags=re.MULTILINE))
    there = {p.stem for p in (ROOT / "src/ropewalk").iterdir() if not p.name.startswith("__")}
    assert named == there
