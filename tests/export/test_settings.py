"""ExportSettings refuse what no export can have, with the nearest name."""

import pytest

from ropewalk.errors import SettingError
from ropewalk.export.settings import ExportSettings


@pytest.mark.parametrize(
    ("given", "noun"),
    [
        ({"mode": "switch"}, "switching"),
        ({"adapter_as": "aside"}, "beside"),
        ({"copy_weigths": 1}, "copy_weights"),
    ],
)
def test_a_value_or_name_that_is_not_known_is_refused(given, noun):
    with pytest.raises(SettingError, match=noun):
        ExportSettings(**given)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        ExportSettings().mode = "switching"
