"""`ropewalk evaluate`: perplexity, passkeys and retrieval, for schemes and factors files alike."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import answer_files, options
from ropewalk.cli.from_settings import from_settings
from ropewalk.cli.output import clock, interruptible, result, result_json, say, table
from ropewalk.cli.progress import show_progress
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.models.settings import ModelSettings
from ropewalk.units import LONGEST, MOST

if TYPE_CHECKING:
    from ropewalk.evaluate.intervals import Difference
    from ropewalk.evaluate.records import EvalRecord
    from ropewalk.evaluate.shares import ShareDifference

app = typer.Typer(
    rich_markup_mode=None,
    help="Measure a model at several lengths, extended or not.",
)

LengthsOption = Annotated[
    str, typer.Option(metavar="LENGTHS", help="Tokens, comma-separated: 256,512,8x,32k.")
]


@app.command()
@from_settings(model=ModelSettings)
def perplexity(
    *,
    lengths: LengthsOption,
    factors: options.FactorFiles = None,
    scheme: options.Schemes = None,
    text: options.Text = "stdlib",
    mode: Annotated[
        options.ReadingModeOption,
        typer.Option(help="One pass over the first tokens, or a window that slides over them."),
    ] = "truncate",
    stride: Annotated[
        int | None,
        typer.Option(min=1, max=LONGEST, help="Tokens between the starts of consecutive sliding windows."),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(min=2, max=LONGEST, help="Tokens of a sliding window; by default the trained window."),
    ] = None,
    num_documents: options.NumDocuments = 10,
    base: options.BaseOption = "native",
    json: options.Json = False,
    model: ModelSettings,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Perplexity at several lengths, on the same documents at each, with a 95% interval.

    Without --factors and --scheme the model is measured as it is. A scheme without `factor` takes the
    longest length divided by the window. `stdlib` means its held-out part. Of several factors, the last ones
    are compared with each of the others, paired by document: decided where the 95% interval of the
    difference is on one side of 0.

    \b
    Example:
        ropewalk evaluate perplexity scale-model --scheme yarn --scheme ntk --lengths 256,512,1024,2048
    """
    with interruptible(answer_files.how_to_continue(None)):
        options.check_early(scheme, factors, text)
        from ropewalk.evaluate.perplexity import measure_perplexity
        from ropewalk.models.model import load_model
        from ropewalk.text.tokens import token_documents

        loaded = load_model(**model.model_dump(), trust_remote_code=trust_remote_code)
        tokens = options.parse_lengths(lengths, loaded.geometry.original_length)
        labelled = options.factors_by_label(loaded, scheme, factors, tokens[-1], base)
        documents = token_documents(text, loaded.tokenizer, length=tokens[-1], num_documents=num_documents)
        say(options.about_documents(documents, num_documents))
        records = measure_perplexity(
            loaded, documents, tokens, factors=labelled, mode=mode, stride=stride, window=window,
            on_record=tell,
        )  # fmt: skip
        ours = records[-1].factors
        if json:
            compared = comparisons(records, ours)
            result_json([record.as_json() for record in records], comparisons=compared)
            return
        result(perplexity_table(records, f"Perplexity of {loaded.name} on {text} ({how_read(records[0])})"))
        if len(labelled) > 1:
            result(paired_table(records, ours))


@app.command()
@from_settings(model=ModelSettings)
def passkey(
    *,
    lengths: LengthsOption,
    factors: options.FactorFiles = None,
    scheme: options.Schemes = None,
    num_trials: Annotated[
        int, typer.Option(min=1, max=MOST, help="Prompts at each length, at several depths.")
    ] = 20,
    seed: options.Seed = 0,
    base: options.BaseOption = "native",
    out: answer_files.Out = None,
    json: options.Json = False,
    model: ModelSettings,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Share of hidden numbers that the model finds again, at exact prompt lengths and several depths.

    Without --factors and --scheme the model is measured as it is. The interval is Wilson's, 95%.

    \b
    Example:
        ropewalk evaluate passkey scale-model --factors runs/mine/factors.json --lengths 256,2048
    """
    with interruptible(answer_files.how_to_continue(out)):
        options.check_early(scheme, factors)
        from ropewalk.evaluate.answers import PasskeyAnswer
        from ropewalk.evaluate.passkey import measure_passkey
        from ropewalk.models.model import load_model

        loaded = load_model(**model.model_dump(), trust_remote_code=trust_remote_code)
        tokens = options.parse_lengths(lengths, loaded.geometry.original_length)
        labelled = options.factors_by_label(loaded, scheme, factors, tokens[-1], base)
        asked = {"num_trials": num_trials, "seed": seed}
        answers = answer_files.open_answers(out, PasskeyAnswer, loaded, labelled, tokens, asked)
        with show_progress() as progress, answers as file:
            measure_passkey(
                loaded, tokens, factors=labelled, num_trials=num_trials, seed=seed, answered=file.answers,
                on_answer=_each(file.add_answer, progress.on_answer), on_record=_each(file.add_record, tell),
            )  # fmt: skip
        show_shares(file.records, f"Passkeys found by {loaded.name}, out of {num_trials}", json=json)


@app.command()
@from_settings(model=ModelSettings, settings=RetrievalSettings)
def retrieval(
    *,
    lengths: LengthsOption,
    factors: options.FactorFiles = None,
    scheme: options.Schemes = None,
    text: options.Text = "stdlib",
    settings: RetrievalSettings,
    base: options.BaseOption = "native",
    out: answer_files.Out = None,
    json: options.Json = False,
    model: ModelSettings,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Share of questions answered about facts that are hidden in real text, at several lengths and depths.

    Without --factors and --scheme the model is measured as it is. `stdlib` means its held-out part. The
    interval is Wilson's, 95%. By default a text's questions are all asked in one reading, each after the true
    answers to those before it; --one-question asks each alone. Of several factors, the last ones are compared
    with each of the others, paired by question: decided where the 95% interval of the difference is on one
    side of 0.

    \b
    Example:
        ropewalk evaluate retrieval scale-model --scheme yarn --scheme ntk --lengths 256,2048
    """
    with interruptible(answer_files.how_to_continue(out)):
        options.check_early(scheme, factors, text)
        from ropewalk.evaluate.answers import RetrievalAnswer
        from ropewalk.evaluate.retrieval import measure_retrieval
        from ropewalk.models.model import load_model
        from ropewalk.text.tokens import token_documents

        loaded = load_model(**model.model_dump(), trust_remote_code=trust_remote_code)
        tokens = options.parse_lengths(lengths, loaded.geometry.original_length)
        labelled = options.factors_by_label(loaded, scheme, factors, tokens[-1], base)
        num_texts = settings.num_texts
        documents = token_documents(text, loaded.tokenizer, length=tokens[-1], num_documents=num_texts)
        say(options.about_documents(documents, num_texts))
        answers = answer_files.open_answers(
            out, RetrievalAnswer, loaded, labelled, tokens, settings.model_dump(), documents
        )
        with show_progress() as progress, answers as file:
            measure_retrieval(
                loaded, documents, tokens, factors=labelled, settings=settings, answered=file.answers,
                on_answer=_each(file.add_answer, progress.on_answer), on_record=_each(file.add_record, tell),
            )  # fmt: skip
        show_shares(file.records, f"Questions answered by {loaded.name} about {settings.in_words}", json=json)


def _each(*callbacks: "Callable[[Any], None]") -> "Callable[[Any], None]":
    """One callback that calls all of these."""

    def call(value: Any) -> None:
        for callback in callbacks:
            callback(value)

    return call


def show_shares(records: "Sequence[EvalRecord]", title: str, *, json: bool) -> None:
    """Prints shares, and how the last factors compare with each of the others."""
    ours = records[-1].factors
    if json:
        compared = share_comparisons(records, ours)
        result_json([record.as_json() for record in records], comparisons=compared)
        return
    result(share_table(records, title))
    if len({record.factors for record in records}) > 1:
        result(paired_shares_table(records, ours))


def tell(record: "EvalRecord") -> None:
    """One line of progress as a record is made."""
    value = f"{record.value:.4g}" if record.metric == "perplexity" else f"{record.found} of {record.n} found"
    note = "" if record.note is None else f", {record.note}"
    say(f"{record.factors} at {record.length} tokens{note}: {value} ({clock(record.seconds)})")


def how_read(record: "EvalRecord") -> str:
    """The protocol of a perplexity, which every table names."""
    if record.mode == "sliding":
        return f"a window of {record.window} tokens, stride {record.stride}; n = {record.n} documents"
    return f"one pass over each document; n = {record.n} documents"


def perplexity_table(records: "Sequence[EvalRecord]", title: str) -> str:
    """One row per label, one column per length: value and interval; the last column is the seconds."""
    known = any(record.low is not None for record in records)
    return _grid(records, f"{title}{', 95% interval' if known else ''}", _perplexity_cell)


def share_table(records: "Sequence[EvalRecord]", title: str) -> str:
    """One row per label, one column per length: passkeys or facts found, and the interval of their share."""
    return _grid(records, f"{title}, 95% interval of the share", _share_cell)


def paired_table(records: "Sequence[EvalRecord]", ours: str) -> str:
    """One row per other label, one column per length: its paired difference from `ours`."""
    from ropewalk.report.comparison import differences_to

    return _paired(
        differences_to(records, ours),
        f"Perplexity of {ours} against each of the others, paired by document (below 0%: {ours} is lower)",
    )


def paired_shares_table(records: "Sequence[EvalRecord]", ours: str) -> str:
    """One row per other label, one column per length: the paired difference of `ours` from its share."""
    from ropewalk.report.comparison import share_differences_to

    return _paired(
        share_differences_to(records, ours),
        f"Share found with {ours} against each of the others, paired by question (above 0 percentage points: "
        f"{ours} finds more)",
    )


def comparisons(records: "Sequence[EvalRecord]", ours: str) -> list[dict[str, object]]:
    """`paired_table` as JSON values."""
    from ropewalk.report.comparison import differences_to

    return [
        {"ours": ours, "theirs": other.factors, "length": other.length, **difference.as_json()}
        for other, difference in differences_to(records, ours)
    ]


def share_comparisons(records: "Sequence[EvalRecord]", ours: str) -> list[dict[str, object]]:
    """`paired_shares_table` as JSON values."""
    from ropewalk.report.comparison import share_differences_to

    return [
        {"ours": ours, "theirs": other.factors, "length": other.length, **difference.as_json()}
        for other, difference in share_differences_to(records, ours)
    ]


def _paired(pairs: "Sequence[tuple[EvalRecord, Difference | ShareDifference]]", title: str) -> str:
    """A table of differences from the records of other labels."""
    lengths = sorted({record.length for record, _ in pairs})
    cells = {(record.factors, record.length): f"{found}, {found.decision}" for record, found in pairs}
    labels = dict.fromkeys(record.factors for record, _ in pairs)
    return table(
        title,
        ["against", *(f"{length} tokens" for length in lengths)],
        [[label, *(cells.get((label, length), "-") for length in lengths)] for label in labels],
    )


def _perplexity_cell(record: "EvalRecord") -> str:
    interval = "" if record.low is None or record.high is None else f" ({record.low:.2f}-{record.high:.2f})"
    return f"{record.value:.3f}{interval}"


def _share_cell(record: "EvalRecord") -> str:
    return f"{record.found}/{record.n} ({record.low:.2f}-{record.high:.2f})"


def _grid(records: "Sequence[EvalRecord]", title: str, cell: "Callable[[EvalRecord], str]") -> str:
    """A cell with a note is marked, and the note is below the table."""
    lengths = sorted({record.length for record in records})
    cells = {(record.factors, record.length): record for record in records}
    rows = []
    for label in dict.fromkeys(record.factors for record in records):
        row = [cells.get((label, length)) for length in lengths]
        seconds = sum(record.seconds for record in row if record)
        shown = [f"{cell(record)}{'*' if record.note else ''}" if record else "-" for record in row]
        rows.append([label, *shown, f"{seconds:.1f}"])
    notes = dict.fromkeys(f"* {record.factors}: {record.note}" for record in records if record.note)
    drawn = table(title, ["factors", *(f"{length} tokens" for length in lengths), "seconds"], rows)
    return drawn + "".join(f"{note}\n" for note in notes)
