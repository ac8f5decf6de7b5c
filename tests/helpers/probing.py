"""transformers as an engine in the test's process: the probe's own code, without the seconds of a start."""

import dataclasses
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from ropewalk.errors import EngineError
from ropewalk.verify.engines import EngineOutput, EngineRequest
from ropewalk.verify.engines.probes import read_output
from ropewalk.verify.engines.transformers import PROBE


def _load_probe() -> Any:
    spec = importlib.util.spec_from_file_location("transformers_probe", PROBE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class InProcess:
    """An `Engine`; keeps nothing between two requests."""

    name = "transformers"
    install_hint = "-"
    chooses_by_context = False
    context_step = 1

    def __init__(self) -> None:
        self.probe = _load_probe()

    def version(self) -> str:
        return transformers.__version__

    def run(self, request: EngineRequest) -> EngineOutput:
        with tempfile.TemporaryDirectory() as name, torch.no_grad():
            try:
                self.probe.write_output(dataclasses.asdict(request), Path(name))
            except Exception as error:
                raise EngineError(str(error)) from error
            return read_output(Path(name), len(request.sequences))
