"""transformers as an engine: the version that is installed here, or version 4 in another environment."""

import os
import sys
from pathlib import Path

from ropewalk.errors import MissingEngineError
from ropewalk.verify.engines.probes import ProbedEngine

PROBE = Path(__file__).with_name("transformers_probe.py")
PYTHON_OF_4 = "ROPEWALK_TRANSFORMERS4_PYTHON"
HINT_OF_4 = "make transformers4"


def transformers_engine(python: str | None = None) -> ProbedEngine:
    """transformers in the environment of a Python, by default this one."""
    return ProbedEngine(
        name="transformers",
        install_hint="pip install 'transformers>=5.23,<6'",
        script=PROBE,
        python=python or sys.executable,
    )


def transformers_4_engine(python: str | None = None) -> ProbedEngine:
    """transformers 4 in the environment of a Python.

    Args:
        python: by default the one in ROPEWALK_TRANSFORMERS4_PYTHON.

    Raises:
        MissingEngineError: no Python is given, or it has another version.
    """
    python = python or os.environ.get(PYTHON_OF_4)
    if not python:
        raise MissingEngineError(
            f"transformers 4 can't be installed beside 5: make another environment by `{HINT_OF_4}`, and "
            f"name its Python by --python or {PYTHON_OF_4}."
        )
    engine = ProbedEngine(
        name="transformers4",
        install_hint=f"{python} -m pip install 'transformers>=4.57,<5' torch safetensors",
        script=PROBE,
        python=python,
    )
    version = engine.version()
    if not version.startswith("4."):
        raise MissingEngineError(
            f"{python} has transformers {version}, but transformers4 needs version 4: name the Python of an "
            f"environment with it (`{HINT_OF_4}` makes one)."
        )
    return engine
