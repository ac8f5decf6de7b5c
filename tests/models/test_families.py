"""docs/families.md says of every causal family what happens here and now, and enough of them work."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "list_families.py"
FEWEST_THAT_WORK = 85


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("list_families", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()
ROWS = {
    row.split(" | ")[0].removeprefix("| "): row
    for row in script.DOCUMENT.read_text().splitlines()
    if row.startswith("| ") and not row.startswith(("| family", "| ---"))
}


def test_the_page_lists_every_family_and_enough_work() -> None:
    assert sorted(ROWS) == script.families()
    assert sum(" | works | " in row for row in ROWS.values()) >= FEWEST_THAT_WORK
    assert not any(" | fails | " in row for row in ROWS.values())


@pytest.mark.parametrize("family", script.families())
@pytest.mark.filterwarnings("ignore")
def test_a_family_does_what_the_page_says(family: str) -> None:
    assert script.row(script.try_family(family)) == ROWS[family]
