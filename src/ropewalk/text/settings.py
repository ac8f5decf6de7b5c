"""TextSettings: the documents that searches follow, that stop them, and that are reported on."""

import math
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ropewalk.text.tokens import DocumentSet, token_documents

HELD_OUT = "stdlib:held-out"


class TextSettings(BaseModel):
    """Where documents come from, and how many play which part.

    Attributes:
        search: a source, as the command line takes it; its first documents are followed, the next ones stop.
        report: another source, of what is reported on; by default the held-out part for `stdlib`.
        num_documents, num_stop_documents: of a search.
        num_report_documents: of an evaluation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: str = Field(default="stdlib", min_length=1)
    report: str | None = None
    num_documents: int = Field(default=5, ge=1)
    num_stop_documents: int = Field(default=3, ge=0)
    num_report_documents: int = Field(default=10, ge=1)

    def for_search(
        self,
        tokenizer: Any,
        length: int,
        num_documents: int | None = None,
        num_stop: int | None = None,
        *,
        num_tokens: int = 0,
    ) -> tuple[DocumentSet, DocumentSet | None]:
        """The documents that a search follows, and those that stop it (None where there are none left).

        Args:
            num_tokens: take as many times more documents as the followed ones need to hold so many tokens, if
                there are so many.

        Raises:
            DataError: the source can't be read, or has no document of `length` tokens.
        """
        count = self.num_documents if num_documents is None else num_documents
        num_stop = self.num_stop_documents if num_stop is None else num_stop
        times = max(1, math.ceil(num_tokens / (count * length)))
        whole = token_documents(
            self.search, tokenizer, length=length, num_documents=times * (count + num_stop), split="search"
        )
        found = len(whole.documents)
        count *= max(1, min(times, found // (count + num_stop)))
        stop = whole.part(count, found) if found > count else None
        return whole.part(0, min(count, found)), stop

    def for_report(self, tokenizer: Any, length: int, num_documents: int | None = None) -> DocumentSet:
        """The documents that are reported on, none of which a search sees.

        Raises:
            DataError: as `for_search`.
        """
        count = self.num_report_documents if num_documents is None else num_documents
        return token_documents(self.report_source, tokenizer, length=length, num_documents=count)

    @property
    def report_source(self) -> str:
        """Where reported documents come from; never where searched ones do.

        "The documents after the others" would not do: which ones are long enough differs from stage to stage.
        """
        return self.report or HELD_OUT

    @model_validator(mode="after")
    def _require_disjoint(self) -> Self:
        if self.report is None and self.search not in ("stdlib", "stdlib:search"):
            raise ValueError(
                f"documents are searched in {self.search}, and report names no others to measure the result "
                f"on: name another source, e.g. report: ./held-out"
            )
        same = self.report is not None and self.report == self.search
        if same or self.search == self.report_source:
            raise ValueError(
                f"{self.search} is both searched in and reported on: name another source in one of the two"
            )
        return self
