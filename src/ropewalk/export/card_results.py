"""The results of a model card: a table for each kind of measurement, with a caption that says what it is."""

from collections.abc import Callable, Sequence

from ropewalk.evaluate.records import EvalRecord
from ropewalk.export.markdown import escape, table
from ropewalk.text.splits import Role

ROLES: dict[Role, str] = {
    "report": "the report documents, which no search has read",
    "stop": "the stop documents, by which the search chose, so it flatters searched factors",
    "search": "the search documents, to which searched factors were fitted, so it flatters them",
}
Cell = Callable[[EvalRecord], str]
Group = tuple[object, ...]


def results(records: Sequence[EvalRecord]) -> str:
    """Every table; of perplexities those of report documents alone, if there are any.

    Records of one table share documents, way of reading, source and number; of several records of one model
    and label at a length, the last one counts.
    """
    groups: dict[Group, list[EvalRecord]] = {}
    for record in _of_report(records):
        groups.setdefault(_group(record), []).append(record)
    return "\n\n".join(_table(group) for group in sorted(groups.values(), key=_place))


def _of_report(records: Sequence[EvalRecord]) -> list[EvalRecord]:
    has_report = any(record.documents == "report" for record in records)
    return [record for record in records if not has_report or record.documents in ("report", None)]


def _group(record: EvalRecord) -> Group:
    return (
        record.metric, record.documents, record.mode, record.window, record.stride, record.source,
        record.data_sha256, record.n, record.seed if record.metric == "passkey" else None,
    )  # fmt: skip


def _place(group: Sequence[EvalRecord]) -> tuple[int, bool]:
    """Perplexities come first, those of a sliding window after the others."""
    return list(_KINDS).index(group[0].metric), group[0].mode == "sliding"


def _table(group: Sequence[EvalRecord]) -> str:
    """A caption, a row for each label and model, a column for each length, and notes."""
    caption, cell = _KINDS[group[0].metric]
    lengths = sorted({record.length for record in group})
    models = dict.fromkeys(record.model for record in group)
    cells = {(record.factors, record.model, record.length): record for record in group}
    rows = []
    for label, model in dict.fromkeys((record.factors, record.model) for record in group):
        name = escape(label) if len(models) == 1 else f"{escape(label)} ({escape(model)})"
        row = [cells.get((label, model, length)) for length in lengths]
        rows.append([name, *(_marked(record, cell) for record in row)])
    measured_on = f"; measured on {escape(next(iter(models)))}" if len(models) == 1 else ""
    notes = dict.fromkeys(
        f"\\* {escape(record.factors)}: {escape(record.note)}" for record in cells.values() if record.note
    )
    drawn = table(["factors", *(f"{length} tokens" for length in lengths)], rows)
    return "\n\n".join([f"{caption(group[0])}{measured_on}.", drawn, *notes])


def _marked(record: EvalRecord | None, cell: Cell) -> str:
    if record is None:
        return "-"
    return cell(record) + ("\\*" if record.note else "")


# ---------------------------------------------------------------- each kind of measurement


def _documents(record: EvalRecord) -> str:
    """Which documents, how many, and how they were read."""
    of = ROLES[record.documents] if record.documents else "documents"
    how = "one pass over each"
    if record.mode == "sliding":
        how = f"a window of {record.window} tokens slid over each, stride {record.stride}"
    return f"{of}: n = {record.n}, text {escape(record.source or 'unknown')}, {how}"


def _about_perplexity(record: EvalRecord) -> str:
    known = " (in brackets its 95% interval over documents)" if record.low is not None else ""
    return f"Perplexity{known}, lower is better, on {_documents(record)}"


def _about_passkeys(record: EvalRecord) -> str:
    return (
        f"Passkeys found (in brackets the 95% interval of the share), n = {record.n} generated prompts at "
        f"each length, seed {record.seed}"
    )


def _about_rise(record: EvalRecord) -> str:
    known = " (in brackets its 95% interval, paired by document)" if record.low is not None else ""
    return (
        f"What short inputs lost against the base model, nats per token{known}, lower is better, on "
        f"{_documents(record)}"
    )


def _perplexity(record: EvalRecord) -> str:
    return f"{record.value:.3f}{_bounds(record, '.2f', '-')}"


def _passkeys(record: EvalRecord) -> str:
    return f"{record.found}/{record.n}{_bounds(record, '.2f', '-')}"


def _rise(record: EvalRecord) -> str:
    return f"{record.value:+.4f}{_bounds(record, '+.4f', ' to ')}"


def _bounds(record: EvalRecord, form: str, between: str) -> str:
    if record.low is None or record.high is None:
        return ""
    return f" ({record.low:{form}}{between}{record.high:{form}})"


_KINDS: dict[str, tuple[Callable[[EvalRecord], str], Cell]] = {
    "perplexity": (_about_perplexity, _perplexity),
    "passkey": (_about_passkeys, _passkeys),
    "nll_rise": (_about_rise, _rise),
}
