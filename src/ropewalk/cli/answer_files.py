"""`--out` of passkeys and retrieval: the file of answers from which the same command resumes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ropewalk.evaluate.answer_file import AnswerFile
    from ropewalk.evaluate.answers import Answer
    from ropewalk.evaluate.records import FactorsAtLength
    from ropewalk.models.model import Model
    from ropewalk.text.tokens import DocumentSet

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write each answer to this file as it is given; after an interruption the same command resumes.",
    ),
]


def how_to_continue(out: Path | None) -> str:
    """What is on the disk after an interruption, and what to do."""
    kept = "Nothing was written" if out is None else f"The answers so far are in {out}"
    return f"{kept}; run the same command again."


def open_answers(
    out: Path | None,
    kind: "type[Answer]",
    loaded: "Model",
    factors: "Mapping[str, FactorsAtLength]",
    lengths: Sequence[int],
    settings: Mapping[str, Any],
    documents: "DocumentSet | None" = None,
) -> "AnswerFile[Answer]":
    """The file of a measurement, which everything that its answers depend on identifies.

    Raises:
        RunFolderError: as `AnswerFile`.
    """
    from ropewalk.evaluate.answer_file import AnswerFile
    from ropewalk.search.provenance import identify_model, identify_text
    from ropewalk.store import hash_json

    def of_factors(at: "FactorsAtLength", length: int) -> str:
        installed = at(length)
        return "none" if installed is None else hash_json(installed.as_values())[:16]

    if out is None:
        return AnswerFile(None, kind, {})
    identity = {
        "metric": kind.METRIC,
        "model": identify_model(loaded),
        "text": None if documents is None else identify_text(documents),
        "factors": {
            label: {str(length): of_factors(at, length) for length in lengths}
            for label, at in factors.items()
        },
        "settings": dict(settings),
    }
    return AnswerFile(out, kind, identity)
