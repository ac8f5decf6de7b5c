"""llama.cpp as an engine, through llama-cpp-python."""

import os
import sys
from pathlib import Path

from ropewalk.verify.engines.probes import ProbedEngine

PYTHON_VARIABLE = "ROPEWALK_LLAMA_CPP_PYTHON"


def llama_cpp_engine(python: str | None = None) -> ProbedEngine:
    """llama.cpp in the environment of a Python.

    Args:
        python: by default the one in ROPEWALK_LLAMA_CPP_PYTHON, else this one.
    """
    return ProbedEngine(
        name="llama.cpp",
        install_hint="pip install llama-cpp-python==0.3.36 safetensors",
        script=Path(__file__).with_name("llama_cpp_probe.py"),
        python=python or os.environ.get(PYTHON_VARIABLE) or sys.executable,
        chooses_by_context=True,
        context_step=256,
    )
