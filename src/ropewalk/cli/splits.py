"""The three sets of documents of a search: those it follows, those that stop it, those of the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.cli.options import about_documents
from ropewalk.cli.output import say
from ropewalk.errors import DataError, SettingError

if TYPE_CHECKING:
    from ropewalk.evaluate.records import Role
    from ropewalk.text.tokens import DocumentSet

HELD_OUT = "stdlib:held-out"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Disjoint sets of documents of one length; None where the source holds none."""

    search: "DocumentSet"
    stop: "DocumentSet | None" = None
    report: "DocumentSet | None" = None

    @property
    def by_role(self) -> "dict[Role, DocumentSet]":
        """Those that there are."""
        sets: dict[Role, DocumentSet | None] = {
            "search": self.search,
            "stop": self.stop,
            "report": self.report,
        }
        return {role: documents for role, documents in sets.items() if documents is not None}


def read_texts(
    source: str,
    tokenizer: Any,
    *,
    length: int,
    num_search: int,
    num_stop: int,
    num_report: int,
    report_source: str | None = None,
) -> Texts:
    """Read the three sets and say what they are, and what is missing of them.

    Search and stop documents are the first and the next ones of the source. Report documents are those of
    `report_source`; by default the held-out part for the standard library's search part, and for other
    sources the documents after the others.

    Raises:
        DataError: a source can't be read, or has no document that is long enough.
        SettingError: a document is in two of the sets.
    """
    from ropewalk.text.tokens import token_documents

    if report_source is None and source in ("stdlib", "stdlib:search"):
        report_source = HELD_OUT
    from_same = num_report if report_source is None else 0
    whole = token_documents(
        source, tokenizer, length=length, num_documents=num_search + num_stop + from_same, split="search"
    )
    search = whole.part(0, num_search)
    stop = _next(whole, num_search, num_stop)
    report = _next(whole, num_search + num_stop, from_same)
    if report_source is not None and num_report:
        report = token_documents(report_source, tokenizer, length=length, num_documents=num_report)
    say(_about(whole, search, num_search))
    _say_what_is_missing("stop", stop, num_stop, source)
    _say_what_is_missing("report", report, num_report, report_source or source)
    texts = Texts(search=search, stop=stop, report=report)
    _require_disjoint(texts)
    return texts


def _next(whole: "DocumentSet", start: int, count: int) -> "DocumentSet | None":
    """So many documents from `start` on, fewer where the set ends; None where none is left."""
    stop = min(start + count, len(whole.documents))
    return whole.part(start, stop) if stop > start else None


def check_sources(source: str, report_source: str | None) -> None:
    """Find a text that is not there before weights are read.

    Raises:
        DataError: a source can't be read.
    """
    from ropewalk.text.documents import is_stdlib, read_documents

    read_documents(source)
    if report_source is None:
        return
    read_documents(report_source)
    same = Path(report_source).expanduser().resolve() == Path(source).expanduser().resolve()
    if same and not is_stdlib(source):
        raise DataError(
            f"{report_source} is named as the text of the search and of the report: leave --report-text out "
            f"(then its documents after those of the search are reported on), or name another."
        )


def _about(whole: "DocumentSet", search: "DocumentSet", num_asked: int) -> str:
    short = f", {whole.num_too_short} shorter ones left out" if whole.num_too_short else ""
    return f"{about_documents(search, num_asked).removesuffix('.')}{short}."


def _say_what_is_missing(role: "Role", documents: "DocumentSet | None", num_asked: int, source: str) -> None:
    found = 0 if documents is None else len(documents.documents)
    if num_asked == 0:
        return
    if documents is None:
        without = {
            "stop": "nothing tells when the search only fits the documents that it follows, and the factors "
            "are chosen on these",
            "report": "what is found can be judged on the search documents only; name others with "
            "--report-text",
        }
        say(f"No {role} documents: {source} holds none after the others, so {without[role]}.")
        return
    fewer = f" ({num_asked} were asked for)" if found < num_asked else ""
    say(f"{role.capitalize()} documents: {found} more from {documents.source}{fewer}.")


def _require_disjoint(texts: Texts) -> None:
    sets = list(texts.by_role.items())
    for index, (role, documents) in enumerate(sets):
        for other, others in sets[index + 1 :]:
            if documents.shares_documents_with(others):
                raise SettingError(
                    f"A {other} document from {others.source} is a {role} document too: name a text "
                    f"without repetitions, or ask for none with --{other}-documents 0."
                )
