"""The result of a search compared with the base model and every closed form, on test documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ropewalk.cli.evaluate import (
    how_read,
    paired_shares_table,
    paired_table,
    perplexity_table,
    share_table,
    tell,
)
from ropewalk.cli.output import say, table

if TYPE_CHECKING:
    from ropewalk.evaluate.records import EvalRecord, FactorsAtLength
    from ropewalk.factors.rescale_factors import RescaleFactors
    from ropewalk.models.model import Model
    from ropewalk.report.comparison import Gap
    from ropewalk.search.result import SearchResult
    from ropewalk.text.splits import DocumentSplit, Role

# Facts of each test document, and the closed forms that are asked for them beside the searched factors.
NUM_FACTS = 4
NUM_CLOSED_FORMS = 2

# Instead of a decision, for documents that the factors were fitted to or chosen by.
NOT_DECIDED = {"search": "fitted to these", "stop": "chosen by these"}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Searched factors compared with every closed form, on test documents if there are any.

    Attributes:
        main: the records of the test documents, or of the search documents where there are no others.
        extra: of the other sets, for the gaps.
        verdict: in words; None if searched factors or every closed form could not be measured.
        retrieval: the share of facts found with the searched factors and the best closed forms, on the test
            documents; empty without them, and where facts do not fit into the target length.
    """

    main: "list[EvalRecord]"
    extra: "list[EvalRecord]"
    gaps: "list[Gap]"
    verdict: str | None
    retrieval: "list[EvalRecord]"

    @property
    def records(self) -> "list[EvalRecord]":
        return self.main + self.extra + self.retrieval

    def tables(self) -> str:
        """All tables and sentences, as text."""
        if not self.main:
            return "Nothing could be measured at the target length.\n"
        from ropewalk.report.figures import SEARCHED

        title = f"Perplexity on the {_role_name(self.main[0].documents)} documents ({how_read(self.main[0])})"
        parts = [perplexity_table(self.main, title)]
        if self.verdict is not None and self.main[0].documents == "report":
            parts.append(paired_table(self.main, SEARCHED))
        if self.gaps:
            parts.append(gap_table(self.gaps))
        if self.verdict is not None:
            parts.append(self.verdict)
        if self.retrieval:
            parts.append(share_table(self.retrieval, facts_title(self.retrieval)))
            parts.append(paired_shares_table(self.retrieval, SEARCHED))
        return "\n".join(parts)


def compare(
    loaded: "Model", split: "DocumentSplit", found: "SearchResult", own: "RescaleFactors | None"
) -> Compared:
    """The base model, every closed form and what was found, at the target.

    Test documents are read here and only here. A scheme with which the model gives no number is left out,
    with a message, because the factors of the search are already written.
    """
    from ropewalk.errors import EvaluationError
    from ropewalk.evaluate.perplexity import measure_perplexity
    from ropewalk.report.comparison import (
        base_label,
        best_closed_form,
        closed_forms,
        comparison_sentence,
        constant,
        measure_gaps,
        without_factors,
    )
    from ropewalk.report.figures import SEARCHED

    target = found.factors.target_length
    schemes = closed_forms(loaded.geometry, target, own)
    factors = {base_label(loaded.description): without_factors, **schemes}
    plain = found.factors_without_start_tokens
    if plain is not None and found.factors.num_start_tokens:
        factors["searched, n-hat 0"] = constant(plain)
    if found.closed_form is not None:
        factors.setdefault(found.closed_form.label, constant(found.factors))
    factors[SEARCHED] = constant(found.searched_factors)
    role: Role = "search" if split.test is None else "report"
    main = []
    for label, at in factors.items():
        try:
            records = measure_perplexity(
                loaded, split.by_role[role], [target], factors={label: at}, on_record=tell
            )
            main += [replace(record, documents=role) for record in records]
        except EvaluationError as error:
            say(f"left out: {error}")
    whole = SEARCHED in {record.factors for record in main} and best_closed_form(main, length=target)
    gaps, extra = measure_gaps(loaded, split.by_role, factors, known=main, length=target)
    return Compared(
        main=of_search(main, found), extra=of_search(extra, found), gaps=gaps,
        verdict=comparison_sentence(main, length=target, documents=_role_name(role)) if whole else None,
        retrieval=of_search(_measure_facts(loaded, split, found, factors), found),
    )  # fmt: skip


def _measure_facts(
    loaded: "Model", split: "DocumentSplit", found: "SearchResult", factors: "Mapping[str, FactorsAtLength]"
) -> "list[EvalRecord]":
    """Facts in the test documents, with the searched factors and the best closed forms."""
    from ropewalk.errors import SettingError
    from ropewalk.evaluate.retrieval import measure_retrieval
    from ropewalk.evaluate.settings import RetrievalSettings
    from ropewalk.report.figures import SEARCHED

    choice = found.outcome.choice
    if split.test is None or choice is None:
        return []
    best_first = sorted(choice.closed_forms, key=lambda one: one.trial.rank)
    labels = [one.label for one in best_first if one.label in factors]
    settings = RetrievalSettings(
        num_facts=NUM_FACTS, num_questions=NUM_FACTS * len(split.test.documents), seed=found.identity["seed"]
    )
    try:
        records = measure_retrieval(
            loaded, split.test, [found.factors.target_length], settings=settings, on_record=tell,
            factors={label: factors[label] for label in [*labels[:NUM_CLOSED_FORMS], SEARCHED]},
        )  # fmt: skip
    except SettingError:  # the facts do not fit into so short a text
        return []
    return [replace(record, documents="report") for record in records]


def facts_title(records: "Sequence[EvalRecord]") -> str:
    """The title of a table of facts that were found."""
    settings = records[0].retrieval
    assert settings is not None
    return f"Facts found of {records[0].n}: {settings.in_words}"


def of_search(records: "Sequence[EvalRecord]", found: "SearchResult") -> "list[EvalRecord]":
    """These records with the search named in whose run they were measured."""
    from ropewalk.search.provenance import search_fields

    fields = search_fields(found.identity)
    return [replace(record, **fields) for record in records]


def gap_table(gaps: "Sequence[Gap]") -> str:
    """One column per set of documents: searched factors, the best closed form, and the difference."""
    columns = [f"{_role_name(gap.documents)} (n = {gap.n})" for gap in gaps]
    rows = [
        ["searched", *(f"{gap.searched:.4f}" for gap in gaps)],
        [gaps[0].scheme, *(f"{gap.closed_form:.4f}" for gap in gaps)],
        ["difference, nats per token", *(f"{gap.nats:+.4f}" for gap in gaps)],
        ["95% interval, paired", *map(_bounds, gaps)],
        ["", *(NOT_DECIDED.get(gap.documents, gap.difference.decision) for gap in gaps)],
    ]
    return table(
        "Perplexity by set of documents: a difference that only the search documents show was fitted to them",
        ["factors", *columns],
        rows,
    )


def _role_name(role: "Role | None") -> str:
    from ropewalk.text.splits import ROLE_NAMES

    return ROLE_NAMES[role or "search"]


def _bounds(gap: "Gap") -> str:
    low, high = gap.difference.low, gap.difference.high
    return "none" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"
