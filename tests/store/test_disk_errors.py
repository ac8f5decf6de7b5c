import errno

import pytest

from ropewalk.errors import ExportError
from ropewalk.store import disk_errors, reason_of


def test_an_error_of_the_disk_is_one_line():
    remedy = "choose a folder on a local disk"
    with (
        pytest.raises(ExportError, match=r"out\.gguf.*no space.*local disk") as error,
        disk_errors("out.gguf", ExportError, remedy=remedy),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(error.value)
    assert isinstance(error.value.__cause__, OSError)


def test_other_errors_are_those_of_the_program():
    with pytest.raises(KeyError), disk_errors("a", ExportError):
        raise KeyError("a")
    with pytest.raises(ExportError), disk_errors("a", ExportError, also=(KeyError,)):
        raise KeyError("a")


@pytest.mark.parametrize("words", ["", "one\ntwo", "x" * 1000, "I/O error."])
def test_a_reason_is_short_and_one_line(words):
    reason = reason_of(OSError(words))
    assert 0 < len(reason) < 200
    assert "\n" not in reason
    assert not reason.endswith(".")
