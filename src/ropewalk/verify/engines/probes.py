"""Run a probe: a script that imports an engine, with any Python, without pickles.

    python PROBE --version             prints the engine's version
    python PROBE REQUEST.json FOLDER   reads the request, writes FOLDER/output.json and
                                       FOLDER/output.safetensors

The request has the fields of `EngineRequest`. output.json has `engine`, `version` and `attention_factors`.
The tensors are `logits.0`, `nats.0`, `logits.1` ..., and, if the engine shows them, `inv_freq.0` ... A probe
that can't import its engine exits with MISSING_CODE.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ropewalk.errors import EngineError, ExportError, MissingEngineError
from ropewalk.verify.engines import EngineOutput, EngineRequest

MISSING_CODE = 3
SHOWN_LINES = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbedEngine:
    """An `Engine` that a probe runs.

    Attributes:
        script: the probe.
        python: the Python of the environment that has the engine; by default this one.
    """

    name: str
    install_hint: str
    script: Path
    chooses_by_context: bool = False
    context_step: int = 1
    python: str = sys.executable

    def version(self) -> str:
        version = self._run("--version").strip()
        if not re.fullmatch(r"\d[\w.+!-]*", version):
            raise MissingEngineError(
                f"{self.python} prints no version of {self.name} ({version[:40]!r}): name the Python of an "
                f"environment that has it."
            )
        return version

    def run(self, request: EngineRequest) -> EngineOutput:
        with tempfile.TemporaryDirectory(prefix="ropewalk-") as name:
            folder = Path(name)
            request_file = folder / "request.json"
            absolute = dataclasses.replace(request, path=str(Path(request.path).resolve()))
            request_file.write_text(json.dumps(dataclasses.asdict(absolute)), encoding="utf-8")
            self._run(str(request_file), name)
            return read_output(folder, len(request.sequences))

    def _run(self, *arguments: str) -> str:
        command = [self.python, str(self.script), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=_environment(), errors="replace"
            )
        except OSError as error:
            raise MissingEngineError(
                f"{self.python} can't be run ({error.strerror}): name the Python of an environment that has "
                f"{self.name}."
            ) from None
        if done.returncode == MISSING_CODE:
            raise MissingEngineError(
                f"{self.name} is not installed for {self.python}: install it by `{self.install_hint}`."
            )
        if done.returncode < 0:
            raise ExportError(
                f"{self.name} was killed by signal {-done.returncode} (9 often means too little memory): try "
                f"again, or use shorter --lengths."
            )
        if done.returncode != 0:
            raise EngineError(
                f"{self.name} failed with exit code {done.returncode}: {_last_lines(done.stderr)}"
            )
        return done.stdout


def read_output(folder: Path, num_sequences: int) -> EngineOutput:
    """Read what a probe wrote.

    Raises:
        EngineError: the output is missing or invalid, or does not have one entry per sequence.
    """
    try:
        return _read_output(folder, num_sequences)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise EngineError(f"The engine's output can't be read ({error}).") from None


def _read_output(folder: Path, num_sequences: int) -> EngineOutput:
    document: dict[str, Any] = json.loads((folder / "output.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = load_file(folder / "output.safetensors")
    indices = range(num_sequences)
    if len(document["attention_factors"]) != num_sequences:
        raise ValueError(f"{len(document['attention_factors'])} attention factors of {num_sequences}")
    frequencies = [tensors.get(f"inv_freq.{index}") for index in indices]
    return EngineOutput(
        engine=document["engine"],
        version=document["version"],
        logits=[tensors[f"logits.{index}"].to(torch.float32) for index in indices],
        nats=[tensors[f"nats.{index}"].to(torch.float64) for index in indices],
        inv_freq=[None if values is None else values.to(torch.float64) for values in frequencies],
        attention_factors=document["attention_factors"],
    )


def _environment() -> dict[str, str]:
    """The environment without Python's search paths, so that the probe imports its own packages; offline."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-SHOWN_LINES:]) or "it printed no error."
