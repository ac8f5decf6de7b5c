"""The results of a model card: one table per kind of measurement, with a caption that describes it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ropewalk.evaluate.records import EvalRecord
from ropewalk.export.markdown import Markdown, escape, public_name
from ropewalk.text.splits import Role

ROLES: dict[Role, str] = {
    "report": "the test documents, which no search read",
    "stop": "the validation documents, by which the search chose the factors, so the value is optimistic",
    "search": "the search documents, to which the factors were fitted, so the value is optimistic",
}


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """Measurements that can be compared with each other.

    Attributes:
        caption: what was measured and how, as Markdown.
        header: the first column's name, and one length per further column.
        rows: a label, and one value per length.
        notes: the notes on values that are marked with an asterisk.
    """

    caption: Markdown
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[Markdown, ...] = ()


def result_tables(records: Sequence[EvalRecord]) -> list[ResultTable]:
    """Every table. If there are measurements on test documents, the others are left out.

    The records of one table share documents, reading, source and number. If several records have the same
    model, label and length, the last one counts.
    """
    groups: dict[tuple[object, ...], list[EvalRecord]] = {}
    for record in _on_test_documents(records):
        groups.setdefault(_group(record), []).append(record)
    return [_table(group) for group in sorted(groups.values(), key=_order)]


def _on_test_documents(records: Sequence[EvalRecord]) -> list[EvalRecord]:
    has_test_documents = any(record.documents == "report" for record in records)
    return [record for record in records if not has_test_documents or record.documents in ("report", None)]


def _group(record: EvalRecord) -> tuple[object, ...]:
    return (
        record.metric, record.documents, record.mode, record.window, record.stride, record.source,
        record.data_sha256, record.n, record.retrieval,
        record.seed if record.metric in ("passkey", "retrieval") else None,
    )  # fmt: skip


def _order(group: Sequence[EvalRecord]) -> tuple[int, bool]:
    """Perplexities first; those of a sliding window after the others."""
    return list(_FORMATS).index(group[0].metric), group[0].mode == "sliding"


def _table(group: Sequence[EvalRecord]) -> ResultTable:
    """One row per label and model, one column per length."""
    describe, write_value = _FORMATS[group[0].metric]
    lengths = sorted({record.length for record in group})
    models = dict.fromkeys(record.model for record in group)
    records = {(record.factors, record.model, record.length): record for record in group}

    def cell(record: EvalRecord | None) -> Markdown:
        if record is None:
            return Markdown("-")
        return Markdown(write_value(record) + (r"\*" if record.note else ""))

    rows = []
    for label, model in dict.fromkeys((record.factors, record.model) for record in group):
        name = label if len(models) == 1 else f"{label} ({public_name(model)})"
        rows.append((name, *(cell(records.get((label, model, length))) for length in lengths)))
    measured_on = f"; measured on {escape(public_name(group[0].model))}" if len(models) == 1 else ""
    notes = dict.fromkeys(
        rf"\* {escape(record.factors)}: {escape(record.note)}" for record in records.values() if record.note
    )
    return ResultTable(
        caption=Markdown(f"{describe(group[0])}{measured_on}."),
        header=("factors", *(f"{length} tokens" for length in lengths)),
        rows=tuple(rows),
        notes=tuple(map(Markdown, notes)),
    )


# ---------------------------------------------------------------- kinds of measurement


def _describe_documents(record: EvalRecord) -> str:
    """Which documents, how many, and how they were read."""
    documents = ROLES[record.documents] if record.documents else "documents"
    reading = "one pass over each document"
    if record.mode == "sliding":
        reading = f"a sliding window of {record.window} tokens, stride {record.stride}"
    source = escape(public_name(record.source or "unknown"))
    return f"{documents}: n = {record.n}, text {source}, {reading}"


def _describe_perplexity(record: EvalRecord) -> str:
    interval = " (in brackets its 95% interval over documents)" if record.low is not None else ""
    return f"Perplexity{interval}, lower is better, on {_describe_documents(record)}"


def _describe_passkeys(record: EvalRecord) -> str:
    return (
        f"Passkeys found (in brackets the 95% interval of the share), n = {record.n} generated prompts per "
        f"length, seed {record.seed}"
    )


def _describe_retrieval(record: EvalRecord) -> str:
    asked = "hidden facts" if record.retrieval is None else record.retrieval.in_words
    source = escape(public_name(record.source or "unknown"))
    return (
        f"Questions answered (in brackets the 95% interval of the share), n = {record.n} per length, about "
        f"{asked}, hidden in text {source}, seed {record.seed}"
    )


def _describe_nll_increase(record: EvalRecord) -> str:
    interval = " (in brackets its 95% interval, paired by document)" if record.low is not None else ""
    return (
        f"NLL increase on short inputs over the base model, nats per token{interval}, lower is better, on "
        f"{_describe_documents(record)}"
    )


def _perplexity(record: EvalRecord) -> str:
    return f"{record.value:.3f}{_interval(record, '.2f', '-')}"


def _share(record: EvalRecord) -> str:
    return f"{record.found}/{record.n}{_interval(record, '.2f', '-')}"


def _nll_increase(record: EvalRecord) -> str:
    return f"{record.value:+.4f}{_interval(record, '+.4f', ' to ')}"


def _interval(record: EvalRecord, form: str, between: str) -> str:
    if record.low is None or record.high is None:
        return ""
    return f" ({record.low:{form}}{between}{record.high:{form}})"


Writer = Callable[[EvalRecord], str]
# A metric to its caption and to the text of one value.
_FORMATS: dict[str, tuple[Writer, Writer]] = {
    "perplexity": (_describe_perplexity, _perplexity),
    "passkey": (_describe_passkeys, _share),
    "retrieval": (_describe_retrieval, _share),
    "nll_increase": (_describe_nll_increase, _nll_increase),
}
