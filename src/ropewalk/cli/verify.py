"""`ropewalk verify`: compares an export, loaded by its engine, with what Ropewalk computes."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ropewalk.cli import options
from ropewalk.cli.output import interruptible, one_line, result, result_json, say, table

if TYPE_CHECKING:
    from ropewalk.verify.result import Check, VerificationResult

MISMATCH_CODE = 1
EngineName = Literal["transformers", "transformers4", "llama.cpp", "vllm"]


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="What was exported: a folder, or a GGUF file.")
    ],
    model: Annotated[str, typer.Option("--model", metavar="MODEL", help="The base model of the export.")],
    factors: Annotated[
        Path, typer.Option("--factors", metavar="FILE", help="The factors that the export should have.")
    ],
    engine: Annotated[
        EngineName | None,
        typer.Option(help="The engine; by default transformers for a folder, llama.cpp for a GGUF file."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="The Python of an environment that has the engine; by default this one."
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A running OpenAI-compatible server that serves PATH; replaces --engine.",
        ),
    ] = None,
    served_model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model's name at the endpoint; by default its only one."),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Context of the server per request (--max-model-len, -c); by default the factors' target.",
        ),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="Largest mean difference of a server's log-probabilities; by default 0.2, or 0.03 for a "
            "GGUF file of float32 or float16 and a folder in float16.",
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTHS",
            help="Lengths in tokens, e.g. 64,256,257,8x; by default around the window and up to 16384.",
        ),
    ] = None,
    text: options.Text = "stdlib",
    mode: Annotated[
        Literal["pinned", "switching"] | None,
        typer.Option(help="The mode of the export, if the export does not state it."),
    ] = None,
    revision: options.Revision = None,
    original_length: options.OriginalLength = None,
    full_attention: options.FullAttention = False,
    attn_implementation: options.Attention = "sdpa",
    json: options.Json = False,
) -> None:
    """Load an export with an engine, and compare frequencies, logits and NLL with those of Ropewalk.

    With --endpoint a running server continues texts of these lengths, one at a time and all at once, and the
    log-probabilities of its 8 tokens and their alternatives are compared.

    The engine also reads the base model, and its difference from Ropewalk there is subtracted. The rest may
    be up to 0.001 of the largest logit (to 4096 tokens) and 0.002 nats per token, 0.02 nats for quantised
    GGUF files. Exit code 1 means that the engine computes something else.

    \b
    Example:
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json \\
            --engine transformers4 --python venv-transformers4/bin/python
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json \\
            --endpoint http://localhost:8000
    """
    # SIGTERM, which schedulers send, would leave the engine's process running; Ctrl-C ends it too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with interruptible("Nothing was written."):
        from ropewalk.models.settings import ModelSettings
        from ropewalk.verify.export import verify_export, verify_served_export

        loading = ModelSettings(
            name=model, attn_implementation=attn_implementation, revision=revision,
            original_length=original_length, full_attention=full_attention,
        )  # fmt: skip
        tokens = None if lengths is None else options.split_lengths(lengths)
        if endpoint is None:
            _require_no_server(served_model, context, limit)
            verification = verify_export(
                path, loading, factors, engine=engine, python=python,
                lengths=tokens, text=text, mode=mode, on_progress=say,
            )  # fmt: skip
        else:
            _require_no_engine(engine, python)
            verification = verify_served_export(
                path, loading, factors, endpoint, served_model=served_model, context=context, limit=limit,
                lengths=tokens, text=text, mode=mode, on_progress=say,
            )  # fmt: skip
        if json:
            result_json([], **verification.as_json())
        else:
            result(_table(verification))
            result(one_line(_verdict(verification)))
    if not verification.is_right:
        raise typer.Exit(MISMATCH_CODE)


def _require_no_engine(engine: EngineName | None, python: str | None) -> None:
    from ropewalk.errors import SettingError

    if engine is not None or python is not None:
        raise SettingError("--endpoint replaces the engine by a server: leave --engine and --python out.")


def _require_no_server(served_model: str | None, context: int | None, limit: float | None) -> None:
    from ropewalk.errors import SettingError

    if (served_model, context, limit) != (None, None, None):
        raise SettingError(
            "--served-model, --context and --limit need a server: give --endpoint, or leave them out."
        )


def _table(verification: "VerificationResult") -> str:
    rows = [
        [
            check.what,
            "" if check.length is None else str(check.length),
            _number(check.found),
            _number(check.limit),
            _number(check.base),
            "yes" if check.is_right else "NO",
        ]
        for check in verification.checks
    ]
    title = f"{verification.engine} {verification.version} reading {verification.path}"
    return table(title, ["", "tokens", "extra difference", "limit", "of the base", "right"], rows)


def _number(value: float | str | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.2g}"


def _verdict(verification: "VerificationResult") -> str:
    wrong = [check for check in verification.checks if not check.is_right]
    if not wrong:
        return f"Right: {verification.engine} computes what these factors say."
    return f"WRONG: {len(wrong)} of {len(verification.checks)} comparisons; first: {_described(wrong[0])}."


def _described(check: "Check") -> str:
    where = "" if check.length is None else f" at {check.length} tokens"
    limit = "" if check.limit is None else f", beyond {check.limit:g}"
    return f"{check.what}{where}: {_number(check.found)}{limit}"
