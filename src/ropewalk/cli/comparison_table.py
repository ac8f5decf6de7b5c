"""The result of a search compared with the base model and every closed form, on test documents."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ropewalk.cli.evaluate import how_read, paired_table, perplexity_table, tell
from ropewalk.cli.output import say, table

if TYPE_CHECKING:
    from ropewalk.evaluate.records import EvalRecord
    from ropewalk.factors.rescale_factors import RescaleFactors
    from ropewalk.models.model import Model
    from ropewalk.report.comparison import Gap
    from ropewalk.search.result import SearchResult
    from ropewalk.text.splits import DocumentSplit, Role

# Instead of a decision, for documents that the factors were fitted to or chosen by.
NOT_DECIDED = {"search": "fitted to these", "stop": "chosen by these"}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Searched factors compared with every closed form, on test documents if there are any.

    Attributes:
        main: the records of the test documents, or of the search documents where there are no others.
        extra: of the other sets, for the gaps.
        verdict: in words; None if searched factors or every closed form could not be measured.
    """

    main: "list[EvalRecord]"
    extra: "list[EvalRecord]"
    gaps: "list[Gap]"
    verdict: str | None

    @property
    def records(self) -> "list[EvalRecord]":
        return self.main + self.extra

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
    )  # fmt: skip


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
