"""Search, validation and test documents of a text: one rule for the command line, recipes and Python.

    search       the source's first documents of the length
    validation   the next ones
    test         those of another source, or, in the same source, the next ones after the boundary

The boundary is a number of the source's documents of any length, because stages read several lengths, and at
each length other documents are long enough.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal

from ropewalk.errors import DataError, SettingError
from ropewalk.text.settings import TextSplit
from ropewalk.text.tokens import DocumentSet, token_documents

# What the search documents have in all, if their number is not given: at short targets the default number is
# too few to tell candidates apart.
SEARCH_TOKENS = 24576

Role = Literal["search", "stop", "report"]  # what records and journals call the sets
ROLE_NAMES: dict[Role, str] = {"search": "search", "stop": "validation", "report": "test"}


@dataclass(frozen=True, kw_only=True)
class DocumentSplit:
    """Disjoint documents of one length.

    Attributes:
        validation, test: None where none are requested, or where the source has none left.

    Raises:
        SettingError: a document is in two of the sets.
    """

    search: DocumentSet
    validation: DocumentSet | None = None
    test: DocumentSet | None = None

    def __post_init__(self) -> None:
        sets = {"search": self.search, "validation": self.validation, "test": self.test}
        known = [(name, documents) for name, documents in sets.items() if documents is not None]
        for (name, documents), (other, others) in itertools.combinations(known, 2):
            if documents.shares_documents_with(others):
                raise SettingError(
                    f"A {other} document from {others.source} is a {name} document too: name a text without "
                    f"repetitions, or set num_{other}_documents to 0."
                )

    @property
    def by_role(self) -> dict[Role, DocumentSet]:
        """The sets that exist, by the names that records have for them."""
        sets: dict[Role, DocumentSet | None] = {
            "search": self.search,
            "stop": self.validation,
            "report": self.test,
        }
        return {name: documents for name, documents in sets.items() if documents is not None}


def split_documents(text: TextSplit, tokenizer: Any, length: int) -> DocumentSplit:
    """The documents of a search and its report at one length.

    Where `text` leaves the number of search documents open, and the default number has fewer than
    `SEARCH_TOKENS` tokens, there are some times as many search and validation documents, if the source has
    them.

    Args:
        length: tokens of each document.

    Raises:
        DataError: a source can't be read, or has no document of `length` tokens. Where searches and tests
            share a source that has no document left for tests, there are no test documents.
        SettingError: a document is in two of the sets.
    """
    search, validation = read_search_documents(
        text,
        tokenizer,
        length,
        num_tokens=0 if "num_documents" in text.model_fields_set else SEARCH_TOKENS,
        reserve=text.num_test_documents if text.shares_source else 0,
    )
    test = None
    if text.num_test_documents:
        boundary = search.num_read if text.shares_source else None
        try:
            test = read_test_documents(text, tokenizer, length, boundary=boundary)
        except NoneLeftError:
            test = None
    return DocumentSplit(search=search, validation=validation, test=test)


def read_search_documents(
    text: TextSplit,
    tokenizer: Any,
    length: int,
    *,
    num_documents: int | None = None,
    num_validation: int | None = None,
    num_tokens: int = 0,
    reserve: int = 0,
    boundary: int | None = None,
) -> tuple[DocumentSet, DocumentSet | None]:
    """The documents that a search follows, and those that it validates on (None where none are left).

    Args:
        length: tokens of each document.
        num_documents, num_validation: instead of those of `text`.
        num_tokens: take as many times more documents as the followed ones need to have this number of tokens,
            if there are enough.
        reserve: documents of the source that stay for others, where there are more than `text` says.
        boundary: from `find_boundary`.

    Raises:
        DataError: the source can't be read, or has no document of `length` tokens.
    """
    count = text.num_documents if num_documents is None else num_documents
    others = text.num_validation_documents if num_validation is None else num_validation

    def read(most: int) -> DocumentSet:
        return token_documents(
            text.search, tokenizer, length=length, num_documents=most, split="search", stop=boundary
        )

    times = max(1, math.ceil(num_tokens / (count * length)))
    if times > 1:
        found = len(read(times * (count + others) + reserve).documents)
        times = max(1, min(times, (found - reserve) // (count + others)))
    whole = read(times * (count + others))
    count, found = times * count, len(whole.documents)
    validation = whole.part(count, found) if found > count else None
    return whole.part(0, min(count, found)), validation


def read_test_documents(
    text: TextSplit,
    tokenizer: Any,
    length: int,
    *,
    num_documents: int | None = None,
    boundary: int | None = None,
) -> DocumentSet:
    """The documents that results are reported on; no search reads them.

    Args:
        boundary: from `find_boundary`.

    Raises:
        DataError: as `read_search_documents`; a `NoneLeftError` where the searches leave none.
    """
    count = text.num_test_documents if num_documents is None else num_documents
    if boundary is None:
        return token_documents(text.test_source, tokenizer, length=length, num_documents=count)
    try:
        return token_documents(
            text.search, tokenizer, length=length, num_documents=count, split="search", start=boundary
        )
    except DataError as error:
        raise NoneLeftError(
            f"No test documents are left after the first {boundary}, those of the searches: {error} "
            f"Or take fewer documents (num_documents, num_validation_documents), or another source (test)."
        ) from error


class NoneLeftError(DataError):
    """The searches leave no document of a source for tests."""


def find_boundary(text: TextSplit, tokenizer: Any, length: int, num_documents: int) -> int | None:
    """Where a source for searches and tests is divided: searches read before it, tests from it on.

    Args:
        length: the longest of all stages, tokens.
        num_documents: the most that a search takes, validation included.

    Returns:
        The number of documents, of any length, before it; None where tests have a source of their own.

    Raises:
        DataError: as `read_search_documents`.
    """
    if not text.shares_source:
        return None
    first = token_documents(
        text.search, tokenizer, length=length, num_documents=num_documents, split="search"
    )
    return first.num_read
