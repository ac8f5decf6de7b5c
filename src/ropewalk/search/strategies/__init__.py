"""The strategies by name, and plugin strategies."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from ropewalk.errors import SettingError, shown
from ropewalk.plugins import find_named
from ropewalk.search.strategies.base import Strategy, Task
from ropewalk.search.strategies.cma_search import Cma
from ropewalk.search.strategies.evolution import Evolution
from ropewalk.search.strategies.gradient import Gradient
from ropewalk.search.strategies.hybrid import Hybrid
from ropewalk.search.strategies.random_search import RandomSearch
from ropewalk.settings import suggest
from ropewalk.units import LARGEST_SEED, MOST

__all__ = [
    "STRATEGY_NAMES", "Strategy", "Task", "make_strategy", "strategy_class",
    "strategy_settings",
]  # fmt: skip

_STRATEGIES: dict[str, type[Strategy]] = {
    "evolution": Evolution,
    "cma": Cma,
    "gradient": Gradient,
    "hybrid": Hybrid,
    "random": RandomSearch,
}

STRATEGY_NAMES = tuple(_STRATEGIES)


def make_strategy(name: str, task: Task, settings: Mapping[str, Any] | None = None) -> Strategy:
    """A new strategy.

    Args:
        name: one of `STRATEGY_NAMES`, or `package.module:Name`: a subclass of `Strategy` that can be imported
            here, with its settings, a dataclass, as the attribute `Settings`.
        settings: of the strategy's own, where they differ from its defaults, e.g. `{"population_size": 32}`.

    Raises:
        SettingError: an unknown strategy or setting, or a value out of its range.
    """
    if not 0 <= task.seed <= LARGEST_SEED:
        raise SettingError(f"The seed is {shown(task.seed)}, but must be 0 or above, at most {LARGEST_SEED}.")
    return strategy_class(name)(task, strategy_settings(name, settings or {}))


def strategy_settings(name: str, given: Mapping[str, Any]) -> Any:
    """The settings of a strategy, its defaults where nothing is given.

    Raises:
        SettingError: an unknown strategy or setting, or a value of a wrong type or out of its range.
    """
    settings = strategy_class(name).Settings
    known = [field.name for field in fields(settings)]
    for key in given:
        if key not in known:
            raise SettingError(
                f"The strategy {name} has no setting {shown(key)}{suggest(key, known)}; it takes "
                f"{', '.join(known) or 'none'}."
            )
    types = get_type_hints(settings)
    return settings(**{key: _checked(f"{name}.{key}", value, types[key]) for key, value in given.items()})


def _checked(what: str, value: Any, kind: Any) -> Any:
    """A value of the type that its setting has."""
    try:
        checked = TypeAdapter(kind).validate_python(value)
    except PydanticUserError:  # a type of a plugin strategy, which checks it by itself
        return value
    except ValidationError as error:
        reason = error.errors()[0]["msg"].lower()
        raise SettingError(f"The setting {what} is {shown(value)}, but: {reason}.") from None
    if isinstance(checked, int) and abs(checked) > MOST:
        raise SettingError(f"The setting {what} is {shown(value)}, but must be at most {MOST}.")
    return checked


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
