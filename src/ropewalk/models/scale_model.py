"""The bundled language model: the setting of LongRoPE at 1:16, small enough for a CPU.

A Llama with a window of 256 tokens and rope_theta 625, so that 256 -> 2048 here is 4k -> 32k in the paper.
It is a folder that `from_pretrained` reads; its README.md is the model card.
"""

from pathlib import Path

from ropewalk.errors import ModelError

SCALE_MODEL = "scale-model"


def scale_model_path() -> Path:
    """The folder of the bundled model.

    Raises:
        ModelError: the installation lacks it.
    """
    folder = Path(__file__).parent / SCALE_MODEL
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"The bundled scale model is missing from {folder}: install Ropewalk again.")
    return folder
