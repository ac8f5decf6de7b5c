"""Notes on records whose length is above the length that the factors, or the model, are for."""

from ropewalk.errors import SettingError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.schemes import SCHEME_NAMES, parse_scheme

FOLLOWS_LENGTH = "dynamic-ntk"


def length_note(loaded: Model, factors: RescaleFactors | None, length: int) -> str | None:
    """Returns a note if `length` is above the length that the factors, or the model itself, are for.

    Args:
        factors: the installed factors; None for the model as configured.
        length: tokens that the model reads at once.
    """
    reach = _reach_of_model(loaded) if factors is None else reach_of(factors)
    if reach is None or length <= reach:
        return None
    whose = "the model's own configuration" if factors is None else "these factors"
    return f"beyond the {reach} tokens of {whose}"


def reach_of(factors: RescaleFactors) -> int:
    """Returns the longest length, in tokens, that these factors are for.

    That is their target length, and for a closed-form scheme with the parameter `factor` at most the window
    times that factor.
    """
    made = factors.provenance
    name = (made.strategy or "").partition(":")[0]
    # With `base_factors`, `factor` multiplies the length of the base scaling, which the factors do not state.
    if name not in SCHEME_NAMES or name == FOLLOWS_LENGTH or made.base != "native":
        return factors.target_length
    try:
        ratio = 1.0 if name == "none" else parse_scheme(made.strategy or "").parameters.get("factor")
    except SettingError:  # a factors file may have a parameter that this version does not know
        ratio = None
    if ratio is None:
        return factors.target_length
    return min(factors.target_length, round(ratio * factors.geometry.original_length))


def _reach_of_model(loaded: Model) -> int | None:
    """The longest length that the model's configuration is for; None if its scaling can't be read."""
    description = loaded.description
    if description.own is not None:
        return description.own.target_length
    return None if description.own_problem else description.geometry.original_length
