"""The README is run, not believed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ropewalk.factors.factor_set import FactorSet

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a reader waits minutes for is run here in a shorter form: the same, with a few values changed.
SHORTER_COMMANDS = {
    "ropewalk extend scale-model-quick --out runs/quick": [
        "text.num_documents=1",
        "text.num_validation_documents=0",
        "search.budget=6",
        "stages.tune.num_steps=2",
        "finetune.batch_size=1",
        "finetune.warmup_steps=1",
        "stages.2.budget=6",
        "stages.2.num_documents=1",
        "stages.3={kind: evaluate, perplexity: [1x, 8x], passkey: [1x], num_trials: 2, num_documents: 3}",
    ],
}
SHORTER_PYTHON = {
    "num_steps=40, batch_size=2": "num_steps=1, batch_size=1",
    "length=256, num_documents=5": "length=256, num_documents=2",
}
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
    shorter = dict(SHORTER_COMMANDS)
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "ropewalk"
        changes = shorter.pop(shlex.join([program, *arguments]), [])
        arguments += [word for change in changes for word in ("--set", change)]
        result = run(["-m", "ropewalk", *arguments], tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        assert result.stdout.strip(), line
    assert not shorter, "what is made shorter is there"
    assert (tmp_path / "runs/mine/factors.json").is_file()
    assert (tmp_path / "runs/quick/result/factors.json").is_file()
    assert (tmp_path / "runs/quick/result/model.safetensors").is_file()


def test_the_python_of_the_readme_runs(tmp_path):
    first, second, third = blocks("python")
    for long, short in SHORTER_PYTHON.items():
        assert second.count(long) == 1
        second = second.replace(long, short)
    for program in (first, second, third):
        result = run(["-W", "error", "-c", program], tmp_path)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "factors.json").is_file()
    assert FactorSet.load(tmp_path / "factor-set.json").lengths == (256, 2048)


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
