"""Packages import upwards only, and the command line starts without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ropewalk"

# An upper package never imports a lower one.
ORDER = [
    "sanitize",
    "errors",
    "store",
    "units",
    "settings",
    "plugins",
    "factors",
    "rope",
    "models",
    "text",
    "evaluate",
    "search",
    "finetune",
    "runtime",
    "export",
    "verify",
    "report",
    "recipe",
    "testing",
    "vllm_plugin",
    "cli",
]

# These import lower packages on purpose: the public names, and the program.
ENTRY_POINTS = {"__init__", "__main__"}


def package_of(file):
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_packages(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the package they reach"
            module = node.module or ""
            names = [f"ropewalk.{a.name}" for a in node.names] if module == "ropewalk" else [module]
        for name in names:
            if name.startswith("ropewalk."):
                yield node.lineno, name.split(".")[1]


FILES = sorted(f for f in PACKAGE.rglob("*.py") if package_of(f) not in ENTRY_POINTS)


def test_the_order_lists_every_package():
    assert {package_of(file) for file in FILES} == set(ORDER)


def test_no_package_imports_a_lower_one():
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line} imports {package}"
        for file in FILES
        for line, package in imported_packages(file)
        if package != "__version__" and ORDER.index(package) > ORDER.index(package_of(file))
    ]
    assert not wrong


def test_only_the_models_with_their_trainer_and_runtime_know_transformers():
    for file in FILES:
        if file.parent.name == "engines" and file.stem.endswith("_probe"):
            continue  # scripts of their own, run in the engine's environment
        names = [
            alias.name if isinstance(node, ast.Import) else node.module
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        ]
        if any((name or "").split(".")[0] == "transformers" for name in names):
            assert package_of(file) in ("models", "finetune", "runtime"), f"{file} imports transformers"


@pytest.mark.parametrize("module", ["ropewalk", "ropewalk.cli.main", "ropewalk.vllm_plugin"])
def test_starting_up_imports_no_torch(module):
    heavy = ("torch", "transformers", "datasets", "vllm")
    code = f"import {module}; import sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
