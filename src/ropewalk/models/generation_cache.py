"""Phi's rule that drops the cache during generation, which is disabled while factors are installed."""

import inspect
from typing import Any

from torch import nn
from transformers import GenerationMixin

from ropewalk.models.replaced_attribute import ReplacedAttribute

METHOD = "prepare_inputs_for_generation"


def drops_cache_at_switch(module: nn.Module) -> bool:
    """Whether a model drops its cache when generation crosses the original window, as Phi models do."""
    prepare = getattr(type(module), METHOD, None)
    code = getattr(inspect.unwrap(prepare), "__code__", None) if prepare is not None else None
    return code is not None and "original_max_position_embeddings" in code.co_names


def keep_cache(model: nn.Module) -> ReplacedAttribute:
    """Disable the rule until the returned attribute is removed."""
    return ReplacedAttribute(model, METHOD, _PlainPrepare(model))


class _PlainPrepare:
    """Replaces the model's own method by transformers' method for all families."""

    def __init__(self, model: Any) -> None:
        self.model = model
        # transformers inspects its signature to see whether it takes embeddings instead of ids.
        self.__wrapped__ = GenerationMixin.prepare_inputs_for_generation.__get__(model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return GenerationMixin.prepare_inputs_for_generation(self.model, *args, **kwargs)
