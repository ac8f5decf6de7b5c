"""A model that follows a factor set is saved with it, and with its configuration as it came."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from ropewalk.factors.factor_set import FACTORS_NAME, FactorSet
from ropewalk.models.replaced import Replacements
from ropewalk.models.transformers4_config import CONFIG, rewrite_keys


def replace_saving(factor_set: FactorSet, model: Any, replacements: Replacements) -> None:
    """State the longest length where lengths are asked for, and keep the set with what is saved."""
    for config in {
        id(part): part for part in (model.config, model.config.get_text_config(decoder=True))
    }.values():
        if "max_position_embeddings" in config.__dict__:
            replacements.replace(config, "max_position_embeddings", factor_set.lengths[-1])
    if hasattr(model, "save_pretrained"):
        replacements.replace(model, "save_pretrained", _SavePretrained(factor_set, model, replacements))


class _SavePretrained:
    """Stands in for a model's `save_pretrained`."""

    def __init__(self, factor_set: FactorSet, model: Any, replacements: Replacements) -> None:
        self.factor_set = factor_set
        self.replacements = replacements
        self.original = self.__wrapped__ = model.save_pretrained

    def __call__(self, save_directory: Any, is_main_process: bool = True, **kwargs: Any) -> Any:
        """As transformers' own, with the factor set beside: `ropewalk.load` reads both."""
        folder = Path(save_directory)
        if is_main_process and not folder.is_file():  # transformers says so of a file
            folder.mkdir(parents=True, exist_ok=True)
            self.factor_set.save(folder / FACTORS_NAME)
        with self.replacements.put_aside(PreTrainedConfig):
            saved = self.original(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and (folder / CONFIG).is_file():
            rewrite_keys(folder)  # version 5 leaves out what version 4 reads
        return saved
