"""Exports of small models of every family, compared with installed factors."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import exported_families as families


def require_exported(family: str, scaling: dict[str, Any], folder: Path) -> Any:
    """The export of a small model of a family, which transformers reads as factors were installed."""
    exported = families.export_family(family, scaling, folder)
    assert families.difference(exported.untouched, exported.wanted) > families.CHANGED
    assert families.difference(families.read_export(exported), exported.wanted) < families.SAME
    return exported
