"""What the benchmarks of exports share: factors, `ropewalk verify` as a user runs it, and its answer."""

import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from evaluator import RESULTS
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors

SEARCHED = RESULTS / "2026-11-25-demo.factors.json"  # for the bundled model at 8x


def write_two_sets(path: Path) -> Path:
    """The bundled model: a set up to the window, and one to 8x, whose attention factor both have."""
    geometry = load_model("scale-model").geometry
    long = scheme_factors("yarn", geometry, 8 * geometry.original_length)
    short = scheme_factors("ntk:factor=1.5", geometry, geometry.original_length)
    FactorSet.of([short.replace(attention_factor=long.attention_factor), long]).save(path)
    return path


def ropewalk(*arguments: str) -> str:
    """What a command says on stdout; a mismatch's exit code is an answer like any other."""
    command = [sys.executable, "-m", "ropewalk", *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not process.stdout.strip():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode} and said nothing.")
    return process.stdout


def verified(*arguments: str) -> dict[str, Any]:
    """What `ropewalk verify` finds, and how long it takes."""
    started = time.monotonic()
    found = json.loads(ropewalk("verify", *arguments, "--json"))
    del found["path"]  # of this machine
    return {"found": found, "seconds": round(time.monotonic() - started, 1), "date": date.today().isoformat()}


def largest(found: dict[str, Any], what: str) -> str:
    """The largest extra difference of a kind, over all lengths."""
    values = [check["found"] for check in found["checks"] if check["what"] == what]
    return f"{max(values):.1e}" if values else "-"
