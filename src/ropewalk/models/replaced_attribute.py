"""An attribute that is replaced on an object for a time, and then exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ReplacedAttribute:
    """Replaces an attribute when it is made, until `remove`, as torch's handles of hooks.

    An attribute that the object has from its class is deleted from the object again.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self.owner = owner
        self._name = name
        self._value = value
        self.replace()

    def replace(self) -> None:
        """Set the value, and remember the earlier one."""
        self._was_set = self._name in vars(self.owner)
        self._earlier = vars(self.owner).get(self._name)
        setattr(self.owner, self._name, self._value)

    def remove(self) -> None:
        """Restore the earlier value."""
        if self._was_set:
            setattr(self.owner, self._name, self._earlier)
        else:
            delattr(self.owner, self._name)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` inside the `with`."""
    attribute = ReplacedAttribute(owner, name, value)
    try:
        yield
    finally:
        attribute.remove()
