"""A model and its factor set, together: the door of this room."""

from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from transformers.utils import cached_file

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.factor_set import FACTORS_NAME, FactorSet, load_set
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.models.rotary import find_installed, prepare
from ropewalk.models.scale_model import SCALE_MODEL
from ropewalk.runtime.rotary import RuntimeRotary

Model = TypeVar("Model", bound=nn.Module)


def apply(
    model: Model,
    factors: FactorSet | RescaleFactors,
    *,
    original_length: int | None = None,
    full_attention: bool = False,
) -> Model:
    """Make a model follow a factor set, until `ropewalk.uninstall`; the same model is given back.

    Each row of a batch turns by the factors for its own length, n-hat and attention factor included: in a
    plain forward by the tokens that it holds, in `generate` by the request's `rope_policy`
    (`runtime.generation`).

    Args:
        model: any transformers causal model with one model-level rotary.
        factors: a set, or one entry, which then serves all lengths up to its target.
        original_length: L in tokens, where the model's configuration states it wrongly.
        full_attention: layers with a window shorter than the longest entry attend to everything meanwhile.

    Raises:
        FactorsError: they were made for another geometry.
        ModelError: the family can't be extended, or windows are too short and `full_attention` is not said.
    """
    factor_set = factors if isinstance(factors, FactorSet) else FactorSet(entries=(factors,))
    standing = find_installed(model)
    if standing is not None:
        standing.remove()  # so that the model is looked at as it came
    settings = (original_length, full_attention, factor_set.longest.per_layer)

    def make(*found: Any) -> RuntimeRotary:
        rotary, layout, description, name, _, _ = found
        return RuntimeRotary(factor_set, rotary, layout, description, name, settings)

    try:
        prepare(model, factor_set.longest, settings, make).put(model)
    except BaseException:
        if standing is not None:
            standing.put(model)
        raise
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
    """Load a model that follows its factor set: transformers' own object, as `from_pretrained` gives it.

    Args:
        path: a checkpoint's folder or hub name, as for `load_model`. Without `factors`, the set is the
            `factors.json` beside its weights, as `ropewalk extend` leaves it.
        factors: the set, or its file, where it stands elsewhere.
        device, dtype, attn_implementation, revision, trust_remote_code: as for `load_model`; `dtype` is the
            checkpoint's own.
        original_length, full_attention: as for `apply`.

    Raises:
        FactorsError: no factor set, or one of another geometry.
        ModelError: as `load_model` and `apply`.
    """
    if factors is None:
        factor_set = load_set(_find_beside(str(path), revision))
        # What belongs to the checkpoint knows its window, also where the configuration says an extended one.
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
    return apply(loaded.model, factor_set, **loaded.how_installed)


def _as_set(factors: FactorSet | RescaleFactors | str | Path) -> FactorSet:
    if isinstance(factors, RescaleFactors):
        return FactorSet(entries=(factors,))
    return factors if isinstance(factors, FactorSet) else load_set(factors)


def _find_beside(path: str, revision: str | None) -> Path:
    """The factor set's file in a checkpoint's folder, or on the hub."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / FACTORS_NAME).is_file():
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"{path} holds a factor set but no checkpoint: name the model that it was made for, and "
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
