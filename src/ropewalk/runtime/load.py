"""Loads a model with its factor set, or installs a factor set in a model in memory."""

from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.factor_set import FACTORS_NAME, FactorSet, load_set
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.models.scale_model import SCALE_MODEL
from ropewalk.runtime.rotary import FactorsByLength


def apply(
    model: Any,
    factors: FactorSet | RescaleFactors,
    *,
    original_length: int | None = None,
    full_attention: bool | None = None,
) -> Any:
    """Install a factor set in a model, until `Model.wrap(model).uninstall()`; returns the same model.

    Each row of a batch rotates by the factors for its own length, including start tokens and attention
    factor. In a forward, that is the number of its tokens; in `generate`, `rope_policy` decides
    (`runtime.generation`).

    Args:
        model: any transformers causal model, or a `Model`.
        factors: a set, or factors for one target, which then serve all lengths up to it.
        original_length, full_attention: as for `Model.wrap`.

    Raises:
        FactorsError: the factors were made for another geometry.
        ModelError: the family can't be extended, or every layer has a sliding window shorter than the longest
            entry and `full_attention` is off.
    """
    owner = Model.wrap(model, original_length=original_length, full_attention=full_attention)
    owner.install(FactorsByLength.of(_as_set(factors), owner))
    return model


def load(
    path: str | Path,
    *,
    factors: FactorSet | RescaleFactors | str | Path | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    attn_implementation: str = "sdpa",
    revision: str | None = None,
    trust_remote_code: bool = False,
    original_length: int | None = None,
    full_attention: bool = False,
) -> Any:
    """Load a model and install its factor set; returns the model of transformers, as `from_pretrained`.

    Args:
        path: a checkpoint's folder or hub name, as for `load_model`. Without `factors`, the set is the
            `factors.json` beside its weights, as `ropewalk extend` writes it.
        factors: the set or its file; None for the one beside the weights.
        device, dtype, attn_implementation, revision, trust_remote_code: as for `load_model`; the default
            `dtype` is the checkpoint's.
        original_length, full_attention: as for `load_model`.

    Raises:
        FactorsError: there is no factor set, or it has another geometry.
        ModelError: as `load_model` and `apply`.
    """
    if factors is None:
        factor_set = load_set(_find_beside(str(path), revision))
        # A set beside a checkpoint states the trained window, even where its configuration does not.
        original_length = original_length or factor_set.geometry.original_length
    else:
        factor_set = _as_set(factors)
    loaded = load_model(
        path,
        device=device,
        dtype=dtype,
        attn_implementation=attn_implementation,
        revision=revision,
        trust_remote_code=trust_remote_code,
        original_length=original_length,
        full_attention=full_attention,
    )
    factor_set.require_geometry(loaded.geometry, loaded.name)
    loaded.warn_if_other_weights(factor_set.longest)
    loaded.install(FactorsByLength.of(factor_set, loaded))
    return loaded.model


def _as_set(factors: FactorSet | RescaleFactors | str | Path) -> FactorSet:
    if isinstance(factors, RescaleFactors):
        return FactorSet.of([factors])
    return factors if isinstance(factors, FactorSet) else load_set(factors)


def _find_beside(path: str, revision: str | None) -> Path:
    """The factor set's file in a checkpoint's folder, or on the hub."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / FACTORS_NAME).is_file():
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"{path} has a factor set but no checkpoint: name the model that it was made for, and "
                    f"give the set as factors={str(folder / FACTORS_NAME)!r}."
                )
            return folder / FACTORS_NAME
    elif path != SCALE_MODEL and not folder.exists():
        found = _find_on_hub(path, revision)
        if found is not None:
            return found
    raise FactorsError(
        f"{path} has no factor set beside it ({FACTORS_NAME}): give one as factors=..., or use "
        f"ropewalk.load_model."
    )


def _find_on_hub(name: str, revision: str | None) -> Path | None:
    try:
        found = cached_file(
            name,
            FACTORS_NAME,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):  # no such repository; `load_model` will say so
        return None
    return None if found is None else Path(found)
