"""TextSplit: where the search, validation and test documents come from, and how many there are."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from ropewalk.settings import Settings
from ropewalk.text.sources import is_stdlib
from ropewalk.units import MOST

HELD_OUT = "stdlib:held-out"


class TextSplit(Settings):
    """Where documents come from, and how many are for search, validation and test.

    `text.splits` reads them. A source is a file (.txt .md .py .jsonl .parquet), a folder, a glob, a data set
    on the hub, or stdlib, the source of Python's standard library.

    Raises:
        SettingError: a value out of its range, or one text for searches and tests.
    """

    search: str = Field(
        default="stdlib",
        min_length=1,
        title="SOURCE",
        json_schema_extra={"option": "--text"},
        description="A file (.txt .md .py .jsonl .parquet), folder, glob, hub data set, or stdlib (the "
        "source of Python's standard library).",
    )
    test: str | None = Field(
        default=None,
        title="SOURCE",
        json_schema_extra={"option": "--test-text"},
        description="Source of the test documents; by default the documents after the search and validation "
        "documents, for stdlib its held-out part.",
    )
    num_documents: int = Field(
        default=5,
        ge=1,
        le=MOST,
        title="N",
        description="Number of search documents. If it is not given, `ropewalk search` takes more at short "
        "targets, 49152 tokens in all, if the text has them.",
    )
    num_validation_documents: int = Field(
        default=3,
        title="N",
        ge=0,
        le=MOST,
        description="Number of validation documents, for early stopping and the choice of the result; 0 for "
        "none. If neither number is given, `ropewalk search` takes more at short targets, 16384 tokens "
        "in all.",
    )
    num_test_documents: int = Field(
        default=10,
        title="N",
        ge=0,
        le=MOST,
        description="Number of test documents, for the reported results; no search reads them.",
    )

    @property
    def shares_source(self) -> bool:
        """Whether test documents are those of the searches' source that come after the searches' own."""
        return self.test is None and not is_stdlib(self.search)

    @property
    def test_source(self) -> str:
        """Where test documents come from."""
        return self.search if self.shares_source else self.test or HELD_OUT

    @model_validator(mode="after")
    def _require_disjoint(self) -> Self:
        if not self.shares_source and same_place(_part(self.search), _part(self.test_source, HELD_OUT)):
            raise ValueError(
                f"{self.search} is the text of both searches and tests: leave the test text out (then tests "
                f"read the documents after those of the searches), or name another source"
            )
        return self


def same_place(one: str, other: str) -> bool:
    """Whether two names are one source."""
    if one == other or is_stdlib(one) or is_stdlib(other):
        return one == other
    try:
        return Path(one).expanduser().resolve() == Path(other).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # no names of files
        return False


def _part(source: str, default: str = "stdlib:search") -> str:
    """The part of the standard library that `stdlib` means; other sources unchanged."""
    return default if source == "stdlib" else source
