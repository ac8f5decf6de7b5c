"""Phi's rule of generation, which does not act while factors are installed."""

import inspect
from typing import Any

from torch import nn
from transformers import GenerationMixin

from ropewalk.models.replaced_attribute import ReplacedAttribute

METHOD = "prepare_inputs_for_generation"


def drops_cache_at_switch(module: nn.Module) -> bool:
    """Whether a model drops its cache when a generation crosses the original window, as Phi's models do."""
    prepare = getattr(type(module), METHOD, None)
    code = getattr(inspect.unwrap(prepare), "__code__", None) if prepare is not None else None
    return code is not None and "original_max_position_embeddings" in code.co_names


def keep_cache(model: nn.Module) -> ReplacedAttribute:
    """Generate as every other model does, until the attribute is removed."""
    return ReplacedAttribute(model, METHOD, _PlainPrepare(model))


class _PlainPrepare:
    """transformers' method for all families, in the place of the model's own."""

    def __init__(self, model: Any) -> None:
        self.model = model
        # transformers reads its signature: whether it takes embeddings in the place of ids.
        self.__wrapped__ = GenerationMixin.prepare_inputs_for_generation.__get__(model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return GenerationMixin.prepare_inputs_for_generation(self.model, *args, **kwargs)
