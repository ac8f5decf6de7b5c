"""The example of a strategy from outside keeps the contracts and runs from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ropewalk.testing import CONTRACTS, check_contract, spaces

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "coordinate_search:CoordinateSearch"


@pytest.mark.parametrize("contract", CONTRACTS)
def test_it_keeps_every_contract(contract: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for space in spaces():
        check_contract(contract, NAME, space)


def test_it_is_short() -> None:
    assert len((EXAMPLES / "coordinate_search.py").read_text().splitlines()) < 60


def test_it_searches_a_model(tiny_model_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for name in "abcdefghij":
        (text / f"{name}.txt").write_text(f"def {name}(x): return x + 1\n" * 20)
    arguments = ["--target-length", "256", "--text", str(text), "--budget", "12", "--strategy", NAME,
                 "--num-documents", "2", "--num-test-documents", "3", "--json",
                 "--out", str(tmp_path / "run")]  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "ropewalk", "search", str(tiny_model_folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["search"]["num_trials"] > 3
