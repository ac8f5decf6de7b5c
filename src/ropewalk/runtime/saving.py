"""Saves a model together with its installed factor set and the configuration of the base model."""

from pathlib import Path
from typing import Any

from ropewalk.factors.factor_set import FACTORS_NAME, FactorSet
from ropewalk.models.model import Model
from ropewalk.models.replaced_attribute import ReplacedAttribute
from ropewalk.models.transformers4_config import CONFIG, rewrite_keys


def replace_saving(factor_set: FactorSet, owner: Model) -> list[ReplacedAttribute]:
    """State the longest length in the configuration, and save the set with the model."""
    model = owner.model
    configs = {id(part): part for part in (model.config, model.config.get_text_config(decoder=True))}
    replaced = [
        ReplacedAttribute(config, "max_position_embeddings", factor_set.lengths[-1])
        for config in configs.values()
        if "max_position_embeddings" in vars(config)
    ]
    if hasattr(model, "save_pretrained"):
        replaced.append(ReplacedAttribute(model, "save_pretrained", _SavePretrained(factor_set, owner)))
    return replaced


class _SavePretrained:
    """Replaces a model's `save_pretrained`."""

    def __init__(self, factor_set: FactorSet, owner: Model) -> None:
        self.factor_set = factor_set
        self.owner = owner
        self.original = self.__wrapped__ = owner.model.save_pretrained

    def __call__(self, save_directory: Any, is_main_process: bool = True, **kwargs: Any) -> Any:
        """As transformers' `save_pretrained`, and writes the factor set too; `ropewalk.load` reads both."""
        folder = Path(save_directory)
        if is_main_process and not folder.is_file():  # transformers reports a path that is a file
            folder.mkdir(parents=True, exist_ok=True)
            self.factor_set.save(folder / FACTORS_NAME)
        with self.owner.base_config():
            saved = self.original(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and (folder / CONFIG).is_file():
            rewrite_keys(folder)  # version 5 does not save the keys that version 4 reads
        return saved
