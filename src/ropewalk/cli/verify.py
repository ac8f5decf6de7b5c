"""`ropewalk verify`: an export, loaded by the real engine, against what Ropewalk computes."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ropewalk.cli import options
from ropewalk.cli.output import interruptible, result, result_json, say, table

if TYPE_CHECKING:
    from ropewalk.export import Mode
    from ropewalk.export.engines import Engine
    from ropewalk.export.verdict import Check, Limits, Verification
    from ropewalk.export.verify import Question
    from ropewalk.factor_set import FactorSet
    from ropewalk.models.load import LoadedModel

MISMATCH_CODE = 1
EngineName = Literal["transformers", "transformers4", "llama.cpp"]


def verify(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="What was exported: a folder, or a GGUF file.")
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="MODEL", help="The model that was exported, untouched.")
    ],
    factors: Annotated[
        Path, typer.Option("--factors", metavar="FILE", help="The factors that it should hold.")
    ],
    engine: Annotated[
        EngineName | None,
        typer.Option(help="Who is asked; by default transformers for a folder, llama.cpp for a GGUF file."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="The Python of an environment that has the engine; by default this one."
        ),
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTHS",
            help="Tokens, e.g. 64,256,257,8x; by default around the window and up to 16384.",
        ),
    ] = None,
    text: options.Text = "stdlib",
    mode: Annotated[
        Literal["pinned", "switching"] | None,
        typer.Option(help="How it was exported, where it does not say so itself."),
    ] = None,
    revision: options.Revision = None,
    original_length: options.OriginalLength = None,
    full_attention: options.FullAttention = False,
    json: options.Json = False,
) -> None:
    """Load an export with its real engine and compare frequencies, logits and perplexity with Ropewalk's own.

    The untouched model goes through the same engine, and only what is extra is judged: up to 0.001 of the
    largest logit (to 4096 tokens) and 0.002 nats a token, of quantised GGUF files 0.02 nats. Exit code 1 says
    that the engine computes something else.

    \b
    Example:
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json \\
            --engine transformers4 --python venv-transformers4/bin/python
    """
    with interruptible("Nothing was written."):
        from ropewalk.export.verify import default_lengths
        from ropewalk.export.verify import verify as run
        from ropewalk.factor_set import load_set
        from ropewalk.models.load import load_model
        from ropewalk.text.tokens import token_documents

        name: EngineName = engine or ("llama.cpp" if path.suffix == ".gguf" else "transformers")
        asked = _engine(name, python)
        _require_export(path, name)
        asked.version()  # a missing engine is told before a model is loaded
        loaded = load_model(
            model, revision=revision, original_length=original_length, full_attention=full_attention
        )
        factor_set = load_set(factors)
        factor_set.require_geometry(loaded.geometry, loaded.name)
        loaded.warn_if_other_weights(factor_set.longest, str(factors))
        with tempfile.TemporaryDirectory(prefix="ropewalk-") as folder:
            question = _question(path, loaded, name, factor_set, mode, Path(folder))
            window = loaded.geometry.original_length
            tokens = options.parse_lengths(lengths, window) if lengths else default_lengths(question.served)
            documents = token_documents(text, loaded.tokenizer, length=max(tokens), num_documents=1)
            ids = documents.documents[0].ids.tolist()
            verification = run(question, loaded, asked, ids, tokens, on_step=say)
        if json:
            result_json([], **verification.as_json())
        else:
            result(_table(verification))
            result(_verdict(verification))
    if not verification.is_right:
        raise typer.Exit(MISMATCH_CODE)


def _engine(name: EngineName, python: str | None) -> "Engine":
    from ropewalk.export.engines.transformers import transformers_4_engine, transformers_engine

    if name == "transformers4":
        return transformers_4_engine(python)
    if name == "transformers":
        return transformers_engine(python)
    from ropewalk.export.engines.llama_cpp import llama_cpp_engine

    return llama_cpp_engine(python)


def _require_export(path: Path, engine: EngineName) -> None:
    from ropewalk.errors import ExportError

    if engine == "llama.cpp":
        if not path.is_file():
            raise ExportError(f"{path} is no file, but llama.cpp reads a GGUF file: name one.")
    elif not (path / "config.json").is_file():
        raise ExportError(f"{path} holds no config.json: name a folder that `ropewalk export hf` wrote.")


def _question(
    path: Path,
    loaded: "LoadedModel",
    engine: EngineName,
    factor_set: "FactorSet",
    mode: "Mode | None",
    folder: Path,
) -> "Question":
    from ropewalk.export.bases import base_folder
    from ropewalk.export.manifest import read_folded, read_mode
    from ropewalk.export.verify import Question

    if engine == "llama.cpp":
        return _gguf_question(path, loaded, factor_set, mode, folder)
    folded = read_folded(path)
    return Question.about(
        path,
        str(base_folder(loaded.name, folder, loaded.revision)),
        factor_set,
        mode=mode or read_mode(path) or "pinned",
        folded_for=None if folded is None else folded[1],
    )


def _gguf_question(
    path: Path, loaded: "LoadedModel", factor_set: "FactorSet", mode: "Mode | None", folder: Path
) -> "Question":
    from ropewalk.export.bases import is_quantised_gguf
    from ropewalk.export.gguf import read_mode, write_base_gguf
    from ropewalk.export.verdict import FLOAT32, QUANTISED
    from ropewalk.export.verify import Question

    base = Path(loaded.name)
    if base.suffix.lower() != ".gguf":
        base = folder / "base.gguf"
        write_base_gguf(loaded.name, base)
    limits: Limits = QUANTISED if is_quantised_gguf(path) else FLOAT32
    return Question.about(
        path, str(base), factor_set, mode=mode or read_mode(path) or "pinned", limits=limits
    )


def _table(verification: "Verification") -> str:
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


def _verdict(verification: "Verification") -> str:
    wrong = [check for check in verification.checks if not check.is_right]
    if not wrong:
        return f"Right: {verification.engine} computes what these factors say."
    return f"WRONG: {len(wrong)} of {len(verification.checks)} comparisons; first: {_story(wrong[0])}."


def _story(check: "Check") -> str:
    where = "" if check.length is None else f" at {check.length} tokens"
    limit = "" if check.limit is None else f", beyond {check.limit:g}"
    return f"{check.what}{where}: {_number(check.found)}{limit}"
