"""Replaces an attribute of an object temporarily, and restores it exactly."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class ReplacedAttribute:
    """Replaces an attribute from construction until `remove`, like the handles of torch's hooks.

    If the original attribute belongs to the class, `remove` deletes the attribute from the object.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self.owner = owner
        self._name = name
        self._value = value
        self.replace()

    def replace(self) -> None:
        """Set the value, and store the earlier one."""
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
