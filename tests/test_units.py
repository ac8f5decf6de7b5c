import pytest

from ropewalk.errors import SettingError
from ropewalk.units import LONGEST, parse_length


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("8x", 32768),
        ("1.5x", 6144),
        ("32k", 32768),
        ("32768", 32768),
        (" 2 X ", 8192),
        (str(LONGEST), LONGEST),
    ],
)
def test_a_length_is_read(text, tokens):
    assert parse_length(text, 4096) == tokens


@pytest.mark.parametrize(
    "text",
    [
        "9" * 400,
        "9" * 5000,
        "9" * 400 + "x",
        "99999999999",
        "1048577k",
        "1e9x",
        "0",
        "0x",
        "1.3x",
        "",
        "x" * 5000,
    ],
)
def test_no_length_is_beyond_all_windows(text):
    with pytest.raises(SettingError, match="The target length") as error:
        parse_length(text, 4096, "The target length")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
