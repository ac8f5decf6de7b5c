"""A replaced attribute is afterwards exactly what it was."""

import pytest

from ropewalk.models.replaced_attribute import ReplacedAttribute, replaced


class Owner:
    window = 1


def test_an_attribute_of_the_class_is_not_left_on_the_object() -> None:
    owner = Owner()
    with pytest.raises(RuntimeError), replaced(owner, "window", 2):
        assert owner.window == 2
        raise RuntimeError
    assert vars(owner) == {}


def test_an_attribute_of_the_object_is_restored_and_can_be_replaced_again() -> None:
    owner = Owner()
    owner.window = 3
    attribute = ReplacedAttribute(owner, "window", 4)
    attribute.remove()
    assert vars(owner) == {"window": 3}
    attribute.replace()
    assert owner.window == 4
    attribute.remove()
    assert owner.window == 3
