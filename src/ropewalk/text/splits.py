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

# What search and validation documents have in all, if their numbers are not given and the source has as many:
# at short targets the default numbers are too few to tell candidates apart.
SEARCH_TOKENS, VALIDATION_TOKENS = 49152, 16384

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

    Where `text` leaves their numbers open, and the default numbers have fewer than `SEARCH_TOKENS` and
    `VALIDATION_TOKENS`, there are more, if the source has them.

    Args:
        length: tokens of each document.

    Raises:
        DataError: a source can't be read, or has no document of `length` tokens. Where searches and tests
            share a source that has no document left for tests, there are no test documents.
        SettingError: a document is in two of the sets.
    """
    count, others = _open_numbers(text, tokenizer, length)
    search, validation = read_search_documents(
        text, tokenizer, length, num_documents=count, num_validation=others
    )
    test = None
    if text.num_test_documents:
        boundary = search.num_read if text.shares_source else None
        try:
            test = read_test_documents(text, tokenizer, length, boundary=boundary)
        except NoneLeftError:
            test = None
    return DocumentSplit(search=search, validation=validation, test=test)


def _open_numbers(text: TextSplit, tokenizer: Any, length: int) -> tuple[int, int]:
    """The numbers of search and validation documents; those that are not given grow with the source."""
    count, others = text.num_documents, text.num_validation_documents
    if "num_documents" in text.model_fields_set:
        return count, others
    most, most_others = max(count, math.ceil(SEARCH_TOKENS / length)), others
    if "num_validation_documents" not in text.model_fields_set:
        most_others = max(others, math.ceil(VALIDATION_TOKENS / length))
    if (most, most_others) == (count, others):
        return count, others
    reserve = text.num_test_documents if text.shares_source else 0
    num_all = most + most_others
    found = token_documents(
        text.search, tokenizer, length=length, num_documents=num_all + reserve, split="search"
    )
    left = len(found.documents) - reserve
    most_others = max(others, int(min(1.0, left / num_all) * most_others))
    most = min(most, left - most_others)
    return (most, most_others) if most >= count else (count, others)


def read_search_documents(
    text: TextSplit,
    tokenizer: Any,
    length: int,
    *,
    num_documents: int | None = None,
    num_validation: int | None = None,
    num_tokens: int = 0,
    boundary: int | None = None,
) -> tuple[DocumentSet, DocumentSet | None]:
    """The documents that a search follows, and those that it validates on (None where none are left).

    Args:
        length: tokens of each document.
        num_documents, num_validation: instead of those of `text`.
        num_tokens: take as many times more documents as the followed ones need to have this number of tokens,
            if there are enough.
        boundary: from `find_boundary`.

    Raises:
        DataError: the source can't be read, or has no document of `length` tokens.
    """
    count = text.num_documents if num_documents is None else num_documents
    others = text.num_validation_documents if num_validation is None else num_validation
    times = max(1, math.ceil(num_tokens / (count * length)))
    whole = token_documents(
        text.search, tokenizer, length=length, num_documents=times * (count + others), split="search",
        stop=boundary,
    )  # fmt: skip
    found = len(whole.documents)
    count *= max(1, min(times, found // (count + others)))
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
