"""The marker `engine`, the Makefile's targets and the variables between them agree."""

import shutil
import subprocess
from pathlib import Path

import pytest
from engines import ENGINES, why_skipped

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_engines_names_every_engine_to_its_tests() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "engines"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    *_, tests = done.stdout.splitlines()
    assert "pytest" in tests
    assert "-m engine" in tests
    assert [variable for variable in ENGINES.values() if f" {variable}=" not in tests] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_without_its_environment_an_engine_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv(ENGINES[engine], "somewhere")
    assert why_skipped(engine) is None
    monkeypatch.delenv(ENGINES[engine])
    assert ENGINES[engine] in (why_skipped(engine) or "")


def test_an_engine_that_is_not_known_is_a_mistake_and_not_skipped() -> None:
    with pytest.raises(KeyError):
        why_skipped("llama.cpp")
