"""Settings of every package: one line for every mistake, the nearest key, and what is given."""

import pytest
from pydantic import Field, ValidationError

from ropewalk.errors import SettingError
from ropewalk.settings import Settings, suggest


class Inner(Settings):
    rank: int = Field(default=8, ge=1)


class Outer(Settings):
    length: int = Field(default=4, ge=2, le=9)
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("values", "nouns"),
    [
        ({"lenght": 4}, ["lenght", "'length'"]),
        ({"length": 1}, ["length", "2"]),
        ({"length": 10**5000}, ["length", "9"]),
        ({"length": 1, "inner": {"rank": 0}}, ["length", "inner.rank"]),
        ({"inner": {"rnak": 1}}, ["inner.rnak"]),
    ],
)
def test_every_mistake_is_on_one_line(values, nouns):
    for make in (Outer.checked, lambda values: Outer(**values)):
        with pytest.raises(SettingError) as caught:
            make(values)
        assert all(noun in str(caught.value) for noun in nouns)
        assert "\n" not in str(caught.value)


def test_errors_may_call_a_field_by_its_option():
    with pytest.raises(SettingError, match="--length"):
        Outer.checked({"length": 1}, {"length": "--length"})


def test_inside_of_other_models_pydantic_reports_the_path():
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"inner": {"rank": 0}})
    assert [error["loc"] for error in caught.value.errors()] == [("inner", "rank")]


def test_given_values_are_told_from_defaults():
    assert Outer(length=4).given() == {"length": 4}
    assert Outer().given() == {}


def test_a_value_can_not_be_changed():
    with pytest.raises(ValidationError):
        Outer().length = 5


def test_suggestions_are_near():
    assert "'budget'" in suggest("bugdet", ["budget", "seed"])
    assert suggest("xyz", ["budget", "seed"]) == ""
