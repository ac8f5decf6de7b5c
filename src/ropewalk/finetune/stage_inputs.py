"""Checks of the model, the factors and the settings of a stage."""

from typing import Any

import torch

from ropewalk.errors import ModelError, SettingError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.models.model import Model


def require_trainable(
    loaded: Model, factors: RescaleFactors, settings: FinetuneSettings
) -> RescaleFactors | None:
    """Check that a model can be trained with these factors and settings.

    Returns:
        The factors of short segments with `mixed_window`, else None.

    Raises:
        FactorsError: the factors have another geometry, or a near window.
        ModelError: the weights are not float32.
        SettingError: the factors are for shorter segments, or `mixed_window` has no effect.
    """
    factors.require_geometry(loaded.geometry, loaded.name)
    factors.require_plain("A training")
    if settings.length > factors.target_length:
        raise SettingError(
            f"length is {settings.length} tokens, but the factors are for {factors.target_length}: use "
            f"shorter segments, or search factors for a longer target."
        )
    if settings.lora is None and not _is_float32(loaded.model):
        raise ModelError(
            f"{loaded.name} was loaded in {loaded.where['dtype']}, which loses small steps: load it in "
            f"float32, and set precision for the computation."
        )
    return _original_factors(loaded, factors, settings) if settings.mixed_window else None


def _is_float32(model: Any) -> bool:
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return all(parameter.dtype == torch.float32 for parameter in trained)


def _original_factors(loaded: Model, factors: RescaleFactors, settings: FinetuneSettings) -> RescaleFactors:
    """The original RoPE, with as many rows as `factors`."""
    length, original = loaded.geometry.original_length, loaded.description.original_factors()
    if settings.length <= length:
        raise SettingError(
            f"mixed_window needs segments longer than the original window of {length} tokens, but length is "
            f"{settings.length}: use longer segments, or remove mixed_window."
        )
    if original.rescale_factors == factors.rescale_factors:
        raise SettingError(
            f"mixed_window reads short documents with the original RoPE, but the configuration of "
            f"{loaded.name} has the factors of the stage already: use the configuration of the base model, "
            f"or remove mixed_window."
        )
    rows = original.rescale_factors
    return original.replace(
        rescale_factors=rows if original.per_layer else rows * len(factors.rescale_factors)
    )
