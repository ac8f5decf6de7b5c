"""transformers as an engine: the one that is installed here, or a version 4 in an environment of its own."""

import os
import sys
from pathlib import Path

from ropewalk.errors import MissingEngineError
from ropewalk.verify.engines.probes import ProbedEngine

PROBE = Path(__file__).with_name("transformers_probe.py")
PYTHON_OF_4 = "ROPEWALK_TRANSFORMERS4_PYTHON"
HINT_OF_4 = "make transformers4"


def transformers_engine(python: str | None = None) -> ProbedEngine:
    """transformers as it is installed for `python`, by default this one."""
    return ProbedEngine(
        name="transformers",
        install_hint="pip install 'transformers>=5.23,<6'",
        script=PROBE,
        python=python or sys.executable,
    )


def transformers_4_engine(python: str | None = None) -> ProbedEngine:
    """A version 4, by the Python of its environment.

    Args:
        python: that Python; by default what ROPEWALK_TRANSFORMERS4_PYTHON names.

    Raises:
        MissingEngineError: it is not said where that is, or it has another version.
    """
    python = python or os.environ.get(PYTHON_OF_4)
    if not python:
        raise MissingEngineError(
            f"transformers 4 can't be installed beside 5: make an environment of its own by `{HINT_OF_4}`, "
            f"and name its Python by --python or {PYTHON_OF_4}."
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
            f"{python} has transformers {version}, but version 4 was asked for: name the Python of an "
            f"environment with it (`{HINT_OF_4}` makes one)."
        )
    return engine
