"""Run a probe: a script on its own, with a Python of one's choice, without a pickle in between.

    python PROBE --version             prints the engine's version
    python PROBE REQUEST.json FOLDER   reads the request, writes FOLDER/answer.json and
                                       FOLDER/answer.safetensors

The request holds the fields of `EngineRequest`. The answer's JSON holds `engine`, `version` and
`attention_factors`; its tensors are `logits.0`, `nats.0`, `logits.1` ..., and, where the engine shows them,
`inv_freq.0` ... A probe that can't import its engine exits with MISSING_CODE.
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
from ropewalk.verify.engines import EngineAnswer, EngineRequest

MISSING_CODE = 3
SHOWN_LINES = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbedEngine:
    """An `Engine` that is a script; see there for what its methods promise.

    Attributes:
        script: the probe.
        python: the interpreter of the environment that has the engine; by default this one.
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
                f"{self.python} does not tell a version of {self.name} ({version[:40]!r}): name the Python "
                f"of an environment that has it."
            )
        return version

    def ask(self, request: EngineRequest) -> EngineAnswer:
        with tempfile.TemporaryDirectory(prefix="ropewalk-") as name:
            folder = Path(name)
            asked = folder / "request.json"
            absolute = dataclasses.replace(request, path=str(Path(request.path).resolve()))
            asked.write_text(json.dumps(dataclasses.asdict(absolute)), encoding="utf-8")
            self._run(str(asked), name)
            return read_answer(folder, len(request.sequences))

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
                f"{self.name} was ended by signal {-done.returncode} (9 is often want of memory): try again, "
                f"or shorter --lengths."
            )
        if done.returncode != 0:
            raise EngineError(
                f"{self.name} could not do it (exit code {done.returncode}): {_end(done.stderr)}"
            )
        return done.stdout


def read_answer(folder: Path, num_sequences: int) -> EngineAnswer:
    """What a probe wrote.

    Raises:
        EngineError: it wrote no answer, or not one for each sequence.
    """
    try:
        return _read_answer(folder, num_sequences)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise EngineError(f"The engine wrote no answer that can be read ({error}).") from None


def _read_answer(folder: Path, num_sequences: int) -> EngineAnswer:
    document: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = load_file(folder / "answer.safetensors")
    indices = range(num_sequences)
    if len(document["attention_factors"]) != num_sequences:
        raise ValueError(f"{len(document['attention_factors'])} attention factors of {num_sequences}")
    frequencies = [tensors.get(f"inv_freq.{index}") for index in indices]
    return EngineAnswer(
        engine=document["engine"],
        version=document["version"],
        logits=[tensors[f"logits.{index}"].to(torch.float32) for index in indices],
        nats=[tensors[f"nats.{index}"].to(torch.float64) for index in indices],
        inv_freq=[None if values is None else values.to(torch.float64) for values in frequencies],
        attention_factors=document["attention_factors"],
    )


def _environment() -> dict[str, str]:
    """Without our own search path: the probe sees its environment's packages only, and no network."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _end(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-SHOWN_LINES:]) or "it said nothing."
