"""`ropewalk text`: what a text is made of, before anything is trained on it."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ropewalk.cli import options
from ropewalk.cli.output import interruptible, one_line, result, result_json, say, table
from ropewalk.cli.progress import SECONDS_BETWEEN_LINES

if TYPE_CHECKING:
    from ropewalk.text.describe import TextDescription

app = typer.Typer(rich_markup_mode=None, help="Look at text before a model is trained on it.")


@app.callback()
def text() -> None:
    """Look at text before a model is trained on it."""


@app.command()
def describe(
    texts: Annotated[
        list[str],
        typer.Argument(
            metavar="TEXT...",
            help="A file (.txt .md .py .jsonl .parquet), folder, glob, hub data set, or stdlib "
            "(of the Python standard library the part for training).",
        ),
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose tokenizer counts: a folder, hub name, or scale-model.")
    ] = "scale-model",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Evaluation text that TEXT should not hold (stdlib: its held-out part); say it again "
            "for more.",
        ),
    ] = None,
    kind: Annotated[
        Literal["text", "chat"], typer.Option(help="chat reads rows of messages, their contents only.")
    ] = "text",
    join: Annotated[
        Literal["none", "folder", "topic"], typer.Option(help="Count documents as a source joins them.")
    ] = "none",
    num_documents: Annotated[
        int | None,
        typer.Option(min=1, max=options.MOST, help="Of each TEXT at most so many documents; by default all."),
    ] = None,
    json: options.Json = False,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Print lengths, tokens in each length bucket, near-duplicates, and overlap with evaluation text.

    Everything is read once, a document at a time. Near-duplicates share four fifths of their stretches of
    5 words with an earlier document; overlap is counted in stretches of 13 words. No model is run.

    \b
    Example:
        ropewalk text describe stdlib ./books --against stdlib:held-out
    """
    with interruptible("Nothing was written."):
        from ropewalk.models.model import load_tokenizer
        from ropewalk.text.describe import describe_texts
        from ropewalk.text.documents import read_documents

        for source in texts:
            read_documents(source, split="train", kind=kind)
        for source in against or []:
            read_documents(source)
        tokenizer = load_tokenizer(model, revision=revision, trust_remote_code=trust_remote_code)
        say(f"Reading {', '.join([*(against or []), *texts])}.")
        found = describe_texts(
            texts,
            tokenizer,
            against=against or [],
            kind=kind,
            join=join,
            num_documents=num_documents,
            on_document=_lines(),
        )
        about = {"texts": texts, "model": model, "against": against or [], "kind": kind, "join": join}
        if json:
            result_json([asdict(bucket) for bucket in found.buckets], **about, **_facts(found))
        else:
            result(_story(found, model, against or []))


def _lines() -> Callable[[int, int], None]:
    """A line now and then."""
    last_said = time.monotonic()

    def on_document(num_documents: int, num_tokens: int) -> None:
        nonlocal last_said
        if time.monotonic() - last_said >= SECONDS_BETWEEN_LINES:
            last_said = time.monotonic()
            say(f"{num_documents:,} documents, {num_tokens:,} tokens so far")

    return on_document


def _facts(found: "TextDescription") -> dict[str, Any]:
    return {
        "num_documents": found.num_documents,
        "num_tokens": found.num_tokens,
        "lengths": {f"{quantile:g}": length for quantile, length in found.lengths.items()},
        "near_duplicates": [asdict(pair) for pair in found.near_duplicates],
        "num_shared_stretches": found.num_shared,
        "num_stretches": found.num_stretches,
        "overlaps": [asdict(overlap) for overlap in found.overlaps],
    }


def _story(found: "TextDescription", model: str, against: list[str]) -> str:
    parts = [
        f"{found.num_documents:,} documents, {found.num_tokens:,} tokens by the tokenizer of {model} "
        f"(without BOS and EOS)\n",
        _lengths(found),
        _buckets(found),
        _duplicates(found),
    ]
    if found.num_stretches is not None and found.num_shared is not None:
        parts.append(_overlap(found, found.num_shared, found.num_stretches, against))
    return "\n".join(parts)


def _lengths(found: "TextDescription") -> str:
    names = {0.0: "shortest", 0.5: "median", 1.0: "longest"}
    columns = ["", *(names.get(quantile, f"{quantile:.0%}") for quantile in found.lengths)]
    return table("Length", columns, [["tokens", *(f"{length:,}" for length in found.lengths.values())]])


def _buckets(found: "TextDescription") -> str:
    rows = [
        [
            f"{bucket.above + 1:,} to {bucket.up_to:,}",
            f"{bucket.num_documents:,}",
            f"{bucket.num_tokens:,}",
            _percent(bucket.num_tokens, found.num_tokens),
        ]
        for bucket in found.buckets
    ]
    return table("By length", ["tokens", "documents", "tokens in them", "of all"], rows)


def _duplicates(found: "TextDescription") -> str:
    from ropewalk.text.describe import ALIKE, WORST_SHOWN

    pairs = found.near_duplicates
    if not pairs:
        return f"Near-duplicates: none is as much as {ALIKE:.0%} like an earlier document.\n"
    num_tokens = sum(pair.num_tokens for pair in pairs)
    lines = [
        f"Near-duplicates: {len(pairs):,} documents with {_percent(num_tokens, found.num_tokens)} of the "
        f"tokens are at least {ALIKE:.0%} like an earlier one."
    ]
    worst = sorted(pairs, key=lambda pair: -pair.similarity)[:WORST_SHOWN]
    lines += [f"  {pair.similarity:4.0%}  {pair.document}  like  {pair.earlier}" for pair in worst]
    return "\n".join(map(one_line, [*lines, *_more(len(pairs), WORST_SHOWN)])) + "\n"


def _overlap(found: "TextDescription", num_shared: int, num_stretches: int, against: list[str]) -> str:
    from ropewalk.text.describe import OVERLAPPING, WORDS_SHARED, WORST_SHOWN

    lines = [
        f"Overlap: {_percent(num_shared, num_stretches)} of the stretches of {WORDS_SHARED} words stand in "
        f"{', '.join(against)} too ({num_shared:,} of {num_stretches:,}); {len(found.overlaps):,} documents "
        f"share {OVERLAPPING:.0%} of theirs or more."
    ]
    lines += [f"  {overlap.share:4.0%}  {overlap.document}" for overlap in found.overlaps[:WORST_SHOWN]]
    return "\n".join(map(one_line, [*lines, *_more(len(found.overlaps), WORST_SHOWN)])) + "\n"


def _more(num_found: int, num_shown: int) -> list[str]:
    return [f"  and {num_found - num_shown:,} more: see --json"] if num_found > num_shown else []


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0%"
