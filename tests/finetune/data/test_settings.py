"""Settings of a mixture that contradict themselves, and descriptions for the tables of the docs."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from ropewalk.finetune.data.settings import MixtureSettings, SourceSettings


@pytest.mark.parametrize(
    ("sources", "more", "noun"),
    [
        ([{"name": "a", "text": "x"}] * 2, {}, "name a"),
        ([{"name": "retrieval", "text": "x"}], {}, "name retrieval"),
        ([], {}, "source"),
        ([{"name": "a", "text": "x", "wieght": 1}], {}, "wieght"),
        ([{"name": "a", "text": "x", "weight": 0}], {}, "weight"),
        ([{"name": "a", "text": "x", "weight": math.inf}], {}, "weight"),
        ([{"name": "a", "text": "x", "tokens": 0}], {}, "tokens"),
        ([{"name": "a", "text": "x", "min_tokens": 5, "max_tokens": 4}], {}, "min_tokens"),
        ([{"name": "a", "text": "x", "kind": "chat", "join": "topic"}], {}, "join"),
        ([{"name": "a", "text": "x", "join": "author"}], {}, "join"),
        ([{"name": "a", "text": "x", "join": "folder", "skip": 1}], {}, "skip"),
        ([{"name": "a", "text": "x"}], {"retrieval_share": 1.1}, "retrieval_share"),
        ([{"name": "a", "text": "x"}], {"seed": -1}, "seed"),
    ],
)
def test_settings_that_contradict_themselves(sources: Any, more: dict[str, Any], noun: str) -> None:
    with pytest.raises(ValidationError, match=noun):
        MixtureSettings.model_validate({"sources": sources, **more})


def test_every_field_has_a_description() -> None:
    for settings in (MixtureSettings, SourceSettings):
        assert all(field.description for field in settings.model_fields.values())


def test_a_skip_of_none_is_not_written() -> None:
    assert "skip" not in SourceSettings(name="a", text="b").model_dump()
    assert SourceSettings(name="a", text="b", skip=2).model_dump()["skip"] == 2
