"""Attributes replaced for a while, and put back exactly: what was not there is taken away again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class Replacements:
    """Remembers what every attribute was, whether it stood on the object itself or on its class."""

    def __init__(self) -> None:
        self._replaced: list[_Replaced] = []

    def replace(self, owner: Any, attribute: str, value: Any) -> None:
        had = attribute in owner.__dict__
        self._replaced.append(_Replaced(owner, attribute, had, owner.__dict__.get(attribute)))
        setattr(owner, attribute, value)

    def put_back(self) -> None:
        """The last first, so that an attribute replaced twice ends as it was."""
        for replaced in reversed(self._replaced):
            replaced.put_back()
        self._replaced = []

    @contextmanager
    def put_aside(self, kind: type) -> Iterator[None]:
        """Meanwhile objects of this class have again what they had."""
        aside = [replaced for replaced in self._replaced if isinstance(replaced.owner, kind)]
        values = [getattr(replaced.owner, replaced.attribute) for replaced in aside]
        for replaced in reversed(aside):
            replaced.put_back()
        try:
            yield
        finally:
            for replaced, value in zip(aside, values, strict=True):
                setattr(replaced.owner, replaced.attribute, value)


@contextmanager
def replacing() -> Iterator[Replacements]:
    """Everything that is replaced inside is put back at the end, also after an exception."""
    replacements = Replacements()
    try:
        yield replacements
    finally:
        replacements.put_back()


@dataclass(frozen=True)
class _Replaced:
    """An attribute as it was."""

    owner: Any
    attribute: str
    had: bool
    value: Any

    def put_back(self) -> None:
        if self.had:
            setattr(self.owner, self.attribute, self.value)
        else:
            delattr(self.owner, self.attribute)
