"""TextSettings: the documents that searches follow, that stop them, and that are reported on."""

import math
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ropewalk.errors import DataError
from ropewalk.text.documents import is_stdlib
from ropewalk.text.tokens import DocumentSet, token_documents
from ropewalk.units import MOST

HELD_OUT = "stdlib:held-out"


class TextSettings(BaseModel):
    """Where documents come from, and how many play which part.

    Attributes:
        search: a source, as the command line takes it; its first documents are followed, the next ones stop.
        report: another source, of what is reported on; by default the held-out part for `stdlib`, and for
            others the documents after those of the searches.
        num_documents, num_stop_documents: of a search.
        num_report_documents: of an evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: str = Field(default="stdlib", min_length=1)
    report: str | None = None
    num_documents: int = Field(default=5, ge=1, le=MOST)
    num_stop_documents: int = Field(default=3, ge=0, le=MOST)
    num_report_documents: int = Field(default=10, ge=1, le=MOST)

    def for_search(
        self,
        tokenizer: Any,
        length: int,
        num_documents: int | None = None,
        num_stop: int | None = None,
        *,
        num_tokens: int = 0,
        border: int | None = None,
    ) -> tuple[DocumentSet, DocumentSet | None]:
        """The documents that a search follows, and those that stop it (None where there are none left).

        Args:
            num_tokens: take as many times more documents as the followed ones need to hold so many tokens, if
                there are so many.
            border: as `border` gives it.

        Raises:
            DataError: the source can't be read, or has no document of `length` tokens.
        """
        count = self.num_documents if num_documents is None else num_documents
        num_stop = self.num_stop_documents if num_stop is None else num_stop
        times = max(1, math.ceil(num_tokens / (count * length)))
        whole = token_documents(
            self.search, tokenizer, length=length, num_documents=times * (count + num_stop), split="search",
            stop=border,
        )  # fmt: skip
        found = len(whole.documents)
        count *= max(1, min(times, found // (count + num_stop)))
        stop = whole.part(count, found) if found > count else None
        return whole.part(0, min(count, found)), stop

    def for_report(
        self, tokenizer: Any, length: int, num_documents: int | None = None, *, border: int | None = None
    ) -> DocumentSet:
        """The documents that are reported on, none of which a search sees.

        Args:
            border: as `border` gives it.

        Raises:
            DataError: as `for_search`, or the searches leave none.
        """
        count = self.num_report_documents if num_documents is None else num_documents
        if border is None:
            return token_documents(self.report_source, tokenizer, length=length, num_documents=count)
        try:
            return token_documents(
                self.search, tokenizer, length=length, num_documents=count, split="search", start=border
            )
        except DataError as error:
            raise DataError(
                f"Nothing is left to report on after the first {border} documents, those of the searches: "
                f"{error} Or take fewer documents (num_documents, num_stop_documents), or another "
                f"source (report)."
            ) from error

    def border(self, tokenizer: Any, length: int, num_documents: int) -> int | None:
        """Where a source for searches and reports is parted: searches read before it, reports from it on.

        "The documents after the others" alone would not do: which ones are long enough differs from stage to
        stage.

        Args:
            length: the longest of all stages, tokens.
            num_documents: the most that a search takes.

        Returns:
            The number of documents, of any length, before it; None where reports have a source of their own.

        Raises:
            DataError: as `for_search`.
        """
        if not self.is_parted:
            return None
        first = token_documents(
            self.search, tokenizer, length=length, num_documents=num_documents, split="search"
        )
        return first.num_read

    @property
    def is_parted(self) -> bool:
        """Whether searches and reports share one source."""
        return self.report is None and not is_stdlib(self.search)

    @property
    def report_source(self) -> str:
        """Where reported documents come from."""
        return self.search if self.is_parted else self.report or HELD_OUT

    @model_validator(mode="after")
    def _require_disjoint(self) -> Self:
        if not self.is_parted and same_place(self.search, self.report_source):
            raise ValueError(
                f"{self.search} is both searched in and reported on: leave report out (then the documents "
                f"after those of the searches are reported on), or name another source"
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
