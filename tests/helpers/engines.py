"""Programs that serve models, for the tests marked `engine`: by what variable each is named to them."""

import os

from ropewalk.verify.engines.llama_cpp import PYTHON_VARIABLE
from ropewalk.verify.engines.transformers import PYTHON_OF_4

# By the names of their targets in the Makefile; `make engines` makes their environments and sets these.
ENGINES = {"transformers4": PYTHON_OF_4, "llama-cpp": PYTHON_VARIABLE, "vllm": "ROPEWALK_VLLM_SOURCE"}


def why_skipped(engine: str) -> str | None:
    """Why tests of an engine can't run here; None where they can."""
    if os.environ.get(ENGINES[engine]):
        return None
    return f"{ENGINES[engine]} is not set: `make engines ENGINES={engine}` makes the environment and sets it"
