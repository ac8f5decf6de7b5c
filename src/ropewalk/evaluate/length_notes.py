"""What must be known to read a figure: a length beyond what the rotary was made for."""

from ropewalk.errors import SettingError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.schemes import SCHEME_NAMES, parse_scheme

FOLLOWS_LENGTH = "dynamic-ntk"


def length_note(loaded: Model, factors: RescaleFactors | None, length: int) -> str | None:
    """A note where `length` tokens, read at once, are more than the factors, or the model itself, are for.

    Args:
        factors: what is installed; None for the model as its configuration has it.
    """
    reach = _reach_of_model(loaded) if factors is None else reach_of(factors)
    if reach is None or length <= reach:
        return None
    whose = "the model's own configuration" if factors is None else "these factors"
    return f"beyond the {reach} tokens of {whose}"


def reach_of(factors: RescaleFactors) -> int:
    """Up to how many tokens these factors are for.

    That is their target length, and for a closed form with a `factor` of its own, that times the window.
    """
    made = factors.provenance
    name = (made.strategy or "").partition(":")[0]
    # On top of a model's own scaling, a factor counts from that scaling's reach, which the factors don't say.
    if name not in SCHEME_NAMES or name == FOLLOWS_LENGTH or made.base != "native":
        return factors.target_length
    try:
        ratio = 1.0 if name == "none" else parse_scheme(made.strategy or "").parameters.get("factor")
    except SettingError:  # a factors file may name a parameter that this version does not know
        ratio = None
    if ratio is None:
        return factors.target_length
    return min(factors.target_length, round(ratio * factors.geometry.original_length))


def _reach_of_model(loaded: Model) -> int | None:
    """Up to how many tokens the model's configuration is for; None if its scaling can't be read."""
    description = loaded.description
    if description.own is not None:
        return description.own.target_length
    return None if description.own_problem else description.geometry.original_length
