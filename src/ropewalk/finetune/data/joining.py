"""The documents of a source, joined into longer ones by folder or by topic."""

from collections.abc import Callable, Iterator
from itertools import groupby, islice

from ropewalk.errors import DataError
from ropewalk.finetune.data.settings import Join, SourceSettings
from ropewalk.text.documents import Document
from ropewalk.text.sources import read_documents

Group = tuple[Document, ...]  # documents that are joined into one

MOST_JOINED = 4096  # documents of a group
BETWEEN_JOINED = "\n\n"


def read_groups(settings: SourceSettings) -> Iterator[Group]:
    """The groups of a source in a fixed order; a document that is not joined is a group of one.

    Raises:
        DataError: the source can't be read, or a document has no folder or topic to join by.
    """
    by_folder = settings.join == "folder"
    documents = read_documents(settings.text, split="train", kind=settings.kind, by_folder=by_folder)
    return _joined(islice(documents, settings.skip, None), settings.join)


def _joined(documents: Iterator[Document], join: Join) -> Iterator[Group]:
    """Groups of at most 4096 documents; those of a folder must follow each other."""
    if join == "none":
        yield from ((document,) for document in documents)
        return

    def label(document: Document) -> str:
        value: str = getattr(document, join)
        if not value:
            remedy = "give a folder or a pattern" if join == "folder" else "add a field `topic` to the rows"
            raise DataError(f"{document.name} has no {join} to join by: {remedy}, or set join to none.")
        return value

    if join == "topic":
        documents = _sorted_in_parts(documents, label)
    for _, alike in groupby(documents, key=label):
        while group := tuple(islice(alike, MOST_JOINED)):
            yield group


def _sorted_in_parts(documents: Iterator[Document], label: Callable[[Document], str]) -> Iterator[Document]:
    """Sort each 4096 documents by topic; documents of one topic keep their order."""
    while part := list(islice(documents, MOST_JOINED)):
        yield from sorted(part, key=label)
