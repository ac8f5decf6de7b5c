"""Strategies, schemes and objectives that a user names `package.module:Name`, imported from there."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.settings import suggest


def find_named(name: str, known: Mapping[str, Any], what: str, plural: str) -> Any:
    """The entry of `known` with this name, or the object that `package.module:Name` names.

    Raises:
        SettingError: neither exists, or as `load_named`.
    """
    if name in known:
        return known[name]
    if ":" not in name:
        raise unknown_name(name, known, what, plural)
    return load_named(name, what)


def unknown_name(name: str, known: Iterable[str], what: str, plural: str) -> SettingError:
    """The error for an unknown name, which states the nearest name and all known ones."""
    return SettingError(
        f"There is no {what} {name!r}{suggest(name, known)}; the {plural} are {', '.join(known)}, or "
        f"package.module:Name for your own."
    )


def load_named(name: str, what: str) -> Any:
    """The object that `package.module:Name` names. Importing it runs the module's code, which the user chose.

    Raises:
        SettingError: the module can't be imported, or has no such name.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # the module may raise anything
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise SettingError(
            f"The {what} {name} can't be imported ({reason}): name package.module:Name, and put its folder "
            f"on PYTHONPATH."
        ) from None
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise SettingError(f"The {what} {name} does not exist: {module_name} has no {attribute!r}.") from None
