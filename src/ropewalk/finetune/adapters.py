"""A low-rank adapter (LoRA, through peft): adding, saving, loading and merging.

The checkpoints of a stage that trains an adapter contain only the adapter. At the end of the stage the
adapter is merged into the weights, so the result is a plain model.
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
    """Add a new adapter to a model and freeze the model's weights; the output stays the same at first.

    Args:
        model: a model of transformers.
        settings: rank, target modules and so on.
        seed: seed of the first weights of the adapter.

    Returns:
        peft's model around `model`.

    Raises:
        SettingError: peft is missing, or the model has none of the target modules.
    """
    try:
        import peft  # noqa: PLC0415 (an extra)
    except ImportError:
        raise SettingError("lora needs peft: install it with `pip install 'ropewalk[lora]'`.") from None
    targets = settings.target_modules
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides by it; a float works
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a deprecated name of transformers
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise SettingError(f"lora can't be added to this model: {' '.join(str(error).split())}") from None


def load_adapter(model: Any, folder: Path) -> Any:
    """Load an adapter that peft saved.

    Args:
        model: the base model, of transformers.
        folder: with the files of peft.

    Returns:
        peft's model around `model`.

    Raises:
        SettingError: peft is missing; or the folder has no adapter, a pickle, an adapter of another model, or
            one whose settings name code or other adapters.
        ModelError: the weights are a link to a file outside the folder.
    """
    try:
        import peft  # noqa: PLC0415 (an extra)
    except ImportError:
        raise SettingError("An adapter needs peft: install it with `pip install 'ropewalk[lora]'`.") from None
    if not (folder / WEIGHTS).is_file():
        raise SettingError(
            f"{folder} has no {WEIGHTS}: give a folder that peft saved; a pickle (.bin) is not loaded."
        )
    require_inside(folder, WEIGHTS, str(folder))
    _require_no_code(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft only warns if keys are missing
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return peft.PeftModel.from_pretrained(model, str(folder))
        except (ValueError, RuntimeError, KeyError, TypeError, OSError, UserWarning) as error:
            reason = " ".join(str(error).split())[:300]
            raise SettingError(f"{folder} is not an adapter of this model: {reason}") from None


def _require_no_code(folder: Path) -> None:
    """Refuse settings with which peft imports modules or downloads adapters that the file names."""
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"{folder} has no readable {CONFIG} ({error}): copy it again.") from None
    if not isinstance(settings, dict):
        raise SettingError(f"{folder} has a {CONFIG} that is not a JSON object: copy it again.")
    if settings.get("megatron_config") is not None or settings.get("peft_type") == "XLORA":
        raise SettingError(
            f"{folder} has a {CONFIG} that names modules to import or adapters to download, which is not "
            f"allowed: give a plain LoRA."
        )


def write_adapter(adapted: Any, folder: Path) -> None:
    """Write only the adapter, in the format of peft."""
    adapted.save_pretrained(folder, save_embedding_layers=False)


def read_adapter(adapted: Any, folder: Path) -> None:
    """Load the weights of an adapter into an adapter with the same settings, in place."""
    import peft  # noqa: PLC0415

    peft.set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))


def merge_adapter(adapted: Any) -> Any:
    """Merge the adapter into the weights; returns the base model without peft."""
    return adapted.merge_and_unload()


def remove_adapter(adapted: Any) -> Any:
    """Remove the adapter; returns the base model."""
    return adapted.unload()
