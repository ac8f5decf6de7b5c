"""Strategies, schemes and objectives of a user's own, named `package.module:Name` and imported from there."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from ropewalk.errors import SettingError


def find_named(name: str, known: Mapping[str, Any], what: str, plural: str) -> Any:
    """One of ours by its name, or what `package.module:Name` stands for.

    Raises:
        SettingError: neither of the two, or as `load_outside`.
    """
    if name in known:
        return known[name]
    if ":" not in name:
        raise unknown_name(name, known, what, plural)
    return load_outside(name, what)


def unknown_name(name: str, known: Iterable[str], what: str, plural: str) -> SettingError:
    """The error that lists the names that there are."""
    return SettingError(
        f"There is no {what} {name!r}; the {plural} are {', '.join(known)}, or package.module:Name for one "
        f"of your own."
    )


def load_outside(name: str, what: str) -> Any:
    """What `package.module:Name` stands for. Importing runs that module's code: the user asked for it.

    Raises:
        SettingError: the module can't be imported, or has no such name.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever that module does as it is imported
        said = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise SettingError(
            f"The {what} {name} can't be imported ({said}): name package.module:Name, and put its folder "
            f"on PYTHONPATH."
        ) from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise SettingError(f"The {what} {name} is not there: {module_name} has no {attribute!r}.") from None
