"""Cells: one measurement each, named by what it depends on, on the disk as soon as it ends.

A cell is one document under one set of factors, ten passkey prompts, or one document's attention. Its file is
named by a hash of its inputs (weights, factors, tokens, way of reading), so two tables that ask for the same
thing share it, a killed script loses the cell that it was in, and nothing is ever taken for something else.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ropewalk.store import write_atomically

FORMAT_VERSION = 1
PACKAGES = ("ropewalk", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is to be measured.

    Attributes:
        inputs: everything that the result depends on, as JSON values.
        about: what else a reader wants to know of it; no part of its name.
        work: its cost, in forward passes over one token without context.
    """

    inputs: dict[str, Any]
    about: dict[str, Any]
    work: float

    @property
    def name(self) -> str:
        text = json.dumps({"version": FORMAT_VERSION, **self.inputs}, sort_keys=True)
        return f"{self.inputs['kind']}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


class CellStore:
    """The finished cells of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """All that its file holds, or None where it was not measured."""
        if cell.name not in self._known:
            path = self._path(cell)
            if not path.is_file():
                return None
            self._known[cell.name] = json.loads(path.read_bytes())
        return self._known[cell.name]

    def measure(self, cell: Cell, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Its file's content, measured now unless it was before."""
        found = self.find(cell)
        if found is not None:
            return found
        started = time.perf_counter()
        result = measure()
        made = {
            "seconds": time.perf_counter() - started,
            "work": cell.work,
            "date": date.today().isoformat(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
        }
        content = {"about": cell.about, "inputs": cell.inputs, "result": result, "made": made}
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(cell), json.dumps(content, indent=1).encode() + b"\n")
        self._known[cell.name] = content
        return content

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.json"
