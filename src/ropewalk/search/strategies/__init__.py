"""The strategies by name, and strategies from outside."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.outside import find_named
from ropewalk.search.strategies.base import Strategy, Task
from ropewalk.search.strategies.cma_search import Cma
from ropewalk.search.strategies.evolution import PAPER_BUDGET, Evolution
from ropewalk.search.strategies.gradient import Gradient
from ropewalk.search.strategies.hybrid import Hybrid
from ropewalk.search.strategies.random_search import RandomSearch

__all__ = ["PAPER_BUDGET", "STRATEGY_NAMES", "Strategy", "Task", "make_strategy", "strategy_class"]

_STRATEGIES: dict[str, type[Strategy]] = {
    "evolution": Evolution,
    "cma": Cma,
    "gradient": Gradient,
    "hybrid": Hybrid,
    "random": RandomSearch,
}

STRATEGY_NAMES = tuple(_STRATEGIES)


def make_strategy(name: str, task: Task, settings: Mapping[str, Any] | None = None) -> Strategy:
    """A strategy at its beginning.

    Args:
        name: one of `STRATEGY_NAMES`, or `package.module:Name`: a subclass of `Strategy` that can be imported
            here, with its settings, a dataclass, as the attribute `Settings`.
        settings: of the strategy's own, where they differ from its defaults, e.g. `{"population_size": 32}`.

    Raises:
        SettingError: an unknown strategy or setting, or a value out of its range.
    """
    if task.seed < 0:
        raise SettingError(f"The seed is {task.seed}, but must be 0 or above.")
    make = strategy_class(name)
    known = [field.name for field in fields(make.Settings)]
    for key in settings or {}:
        if key not in known:
            raise SettingError(
                f"The strategy {name} has no setting {key!r}; it takes {', '.join(known) or 'none'}."
            )
    return make(task, make.Settings(**(settings or {})))


def strategy_class(name: str) -> type[Strategy]:
    """The class behind a strategy's name.

    Raises:
        SettingError: there is no such strategy.
    """
    found = find_named(name, _STRATEGIES, "strategy", "strategies")
    if not (
        isinstance(found, type)
        and issubclass(found, Strategy)
        and is_dataclass(getattr(found, "Settings", None))
    ):
        raise SettingError(
            f"The strategy {name} is {found!r}, but must be a subclass of ropewalk's Strategy with a "
            f"dataclass as its attribute `Settings`."
        )
    return found
