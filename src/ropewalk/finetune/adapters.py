"""A low-rank adapter on a model (LoRA through peft), and its files.

While an adapter is trained, a checkpoint holds the adapter alone, and the stage is gone on with on the same
base; at its end the adapter is merged into the weights, so that what a stage leaves is a plain model.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ropewalk.errors import SettingError
from ropewalk.finetune.settings import LoraSettings
from ropewalk.models.weight_files import require_inside

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def add_adapter(model: Any, settings: LoraSettings, seed: int) -> Any:
    """peft's model around `model`, whose weights are frozen; the adapter changes nothing yet.

    Raises:
        SettingError: peft is missing, or none of the target modules is in the model.
    """
    try:
        import peft  # noqa: PLC0415 (an extra)
    except ImportError:
        raise SettingError("lora needs peft: install it by `pip install 'ropewalk[lora]'`.") from None
    targets = settings.target_modules
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a fraction is as good
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that is going away
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise SettingError(f"lora can't be put into this model: {' '.join(str(error).split())}") from None


def load_adapter(model: Any, folder: Path) -> Any:
    """peft's model around `model`, with an adapter that was saved by peft.

    Raises:
        SettingError: peft is missing, the folder holds no adapter, one that is a pickle, one of another
            model, or one whose settings name code or further adapters.
        ModelError: its weights are a link out of the folder.
    """
    try:
        import peft  # noqa: PLC0415 (an extra)
    except ImportError:
        raise SettingError("An adapter needs peft: install it by `pip install 'ropewalk[lora]'`.") from None
    if not (folder / WEIGHTS).is_file():
        raise SettingError(
            f"{folder} holds no {WEIGHTS}: name a folder that peft saved; a pickle (.bin) is not read."
        )
    require_inside(folder, WEIGHTS, str(folder))
    _require_no_code(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft warns where keys are missing, and goes on
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return peft.PeftModel.from_pretrained(model, str(folder))
        except (ValueError, RuntimeError, KeyError, TypeError, OSError, UserWarning) as error:
            reason = " ".join(str(error).split())[:300]
            raise SettingError(f"{folder} is no adapter of this model: {reason}") from None


def _require_no_code(folder: Path) -> None:
    """Refuse settings by which peft imports a module, or fetches further adapters, by a name in the file."""
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"{folder} has no {CONFIG} that can be read ({error}): copy it again.") from None
    if not isinstance(settings, dict):
        raise SettingError(f"{folder} has a {CONFIG} that holds no JSON object: copy it again.")
    if settings.get("megatron_config") is not None or settings.get("peft_type") == "XLORA":
        raise SettingError(
            f"{folder} has a {CONFIG} that names modules to import or adapters to fetch, which is not done: "
            f"name a plain LoRA."
        )


def write_adapter(adapted: Any, folder: Path) -> None:
    """The adapter alone, in peft's own files."""
    adapted.save_pretrained(folder, save_embedding_layers=False)


def read_adapter(adapted: Any, folder: Path) -> None:
    """An adapter's weights into one of the same settings, in place."""
    import peft  # noqa: PLC0415

    peft.set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))


def merge_adapter(adapted: Any) -> Any:
    """The base model with the adapter in its weights, and no trace of peft."""
    return adapted.merge_and_unload()


def remove_adapter(adapted: Any) -> Any:
    """The base model as it was."""
    return adapted.unload()
