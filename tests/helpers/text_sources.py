"""Read a text source as a user names it, or expect that it is refused."""

from typing import Any

import pytest

from ropewalk.errors import DataError
from ropewalk.text.sources import read_documents


def texts(source: object, **options: Any) -> list[str]:
    """The text of every document."""
    return [document.head(1_000_000) for document in read_documents(str(source), **options)]


def refused(source: object, **options: Any) -> str:
    """The message of the mistake, one line."""
    with pytest.raises(DataError) as caught:
        texts(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message
