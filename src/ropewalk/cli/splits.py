"""The documents of a search on the command line: read, and described on stderr."""

from typing import TYPE_CHECKING, Any

from ropewalk.cli.options import about_documents
from ropewalk.cli.output import say
from ropewalk.text.settings import TextSplit

if TYPE_CHECKING:
    from ropewalk.text.splits import DocumentSplit
    from ropewalk.text.tokens import DocumentSet

# What follows where documents are missing.
WITHOUT = {
    "validation": "the factors are chosen on the documents that the search follows, "
    "and overfitting to these is not detected",
    "test": "the result is measured on the search documents only; name others with --test-text",
}


def read_split(text: TextSplit, tokenizer: Any, length: int) -> "DocumentSplit":
    """Read the documents, and say how many there are and which are missing.

    Raises:
        DataError, SettingError: as `split_documents`.
    """
    from ropewalk.text.splits import split_documents

    split = split_documents(text, tokenizer, length)
    short = split.search.num_too_short
    left_out = f", {short} shorter ones left out" if short else ""
    say(f"{about_documents(split.search, text.num_documents).removesuffix('.')}{left_out}.")
    _tell("validation", split.validation, text.num_validation_documents, text.search)
    _tell("test", split.test, text.num_test_documents, text.test_source)
    return split


def check_sources(text: TextSplit) -> None:
    """Find a missing text before weights are read.

    Raises:
        DataError: a source can't be read.
    """
    from ropewalk.text.sources import read_documents

    read_documents(text.search)
    if text.test is not None:
        read_documents(text.test)


def _tell(name: str, documents: "DocumentSet | None", requested: int, source: str) -> None:
    if requested == 0:
        return
    if documents is None:
        say(f"No {name} documents: {source} has none after the others, so {WITHOUT[name]}.")
        return
    found = len(documents.documents)
    fewer = f" ({requested} were requested)" if found < requested else ""
    say(f"{name.capitalize()} documents: {found} more from {documents.source}{fewer}.")
