"""The strategies by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies.base import Strategy
from ropewalk.search.strategies.evolution import PAPER_BUDGET, Evolution, EvolutionSettings
from ropewalk.search.strategies.random_search import RandomSearch, RandomSettings

__all__ = ["PAPER_BUDGET", "STRATEGY_NAMES", "Strategy", "make_strategy"]

_STRATEGIES: dict[str, tuple[type[Strategy], type[Any]]] = {
    "evolution": (Evolution, EvolutionSettings),
    "random": (RandomSearch, RandomSettings),
}

STRATEGY_NAMES = tuple(_STRATEGIES)


def make_strategy(
    name: str, space: SearchSpace, seed: int, settings: Mapping[str, Any] | None = None
) -> Strategy:
    """A strategy at its beginning.

    Args:
        seed: 0 or above.
        settings: of the strategy's own, where they differ from its defaults, e.g. `{"population_size": 32}`.

    Raises:
        SettingError: an unknown strategy or setting, or a value out of its range.
    """
    if name not in _STRATEGIES:
        raise SettingError(f"There is no strategy {name!r}; the strategies are {', '.join(STRATEGY_NAMES)}.")
    if seed < 0:
        raise SettingError(f"The seed is {seed}, but must be 0 or above.")
    make, make_settings = _STRATEGIES[name]
    known = [field.name for field in fields(make_settings)]
    for key in settings or {}:
        if key not in known:
            raise SettingError(
                f"The strategy {name} has no setting {key!r}; it takes {', '.join(known) or 'none'}."
            )
    return make(space, seed, make_settings(**(settings or {})))
