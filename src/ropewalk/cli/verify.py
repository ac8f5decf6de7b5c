"""`ropewalk verify`: an export, loaded by the real engine, against what Ropewalk computes."""

import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ropewalk.cli import options
from ropewalk.cli.output import interruptible, one_line, result, result_json, say, table

if TYPE_CHECKING:
    from ropewalk.export import ExportMode, Served
    from ropewalk.factors.factor_set import FactorSet
    from ropewalk.models.model import Model
    from ropewalk.verify.compare import ExportUnderTest
    from ropewalk.verify.engines import Engine
    from ropewalk.verify.result import Check, VerificationResult

MISMATCH_CODE = 1
Comparison = Callable[["Model", "FactorSet", "Served", list[int], list[int]], "VerificationResult"]
EngineName = Literal["transformers", "transformers4", "llama.cpp", "vllm"]


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
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask a running OpenAI-compatible server that serves PATH, instead of an engine.",
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
            help="What the server was started for (--max-model-len, -c), for each request; by default the "
            "factors' target.",
        ),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(
            metavar="NATS",
            help="How far a server's log-probabilities may be off in the mean; by default 0.2, or 0.03 for "
            "a GGUF file of float32 or float16 and a folder in float16.",
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
    attn_implementation: options.Attention = "sdpa",
    json: options.Json = False,
) -> None:
    """Load an export with its real engine and compare frequencies, logits and perplexity with Ropewalk's own.

    With --endpoint a running server is asked to go on with texts of these lengths, one alone and all at once,
    and the log-probabilities of its 8 tokens and their rivals are compared.

    The base model goes through the same engine, and only the difference beyond its own is judged: up to 0.001
    of the largest logit (to 4096 tokens) and 0.002 nats per token, 0.02 nats for quantised GGUF files. Exit
    code 1 means that the engine computes something else.

    \b
    Example:
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json \\
            --engine transformers4 --python venv-transformers4/bin/python
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json \\
            --endpoint http://localhost:8000
    """
    # A scheduler's way to end us would leave the engine's process behind; Ctrl-C ends it too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with interruptible("Nothing was written."):
        from ropewalk.export import Served
        from ropewalk.factors.factor_set import load_set
        from ropewalk.models.model import load_model
        from ropewalk.text.tokens import token_documents
        from ropewalk.verify.cases import default_lengths
        from ropewalk.verify.completions import NUM_SPARE

        name: EngineName = engine or ("llama.cpp" if path.suffix == ".gguf" else "transformers")
        _require_export(path, name)
        if endpoint is None:
            _require_no_server(served_model, context, limit)
            compare = _by_engine(path, name, python)
        else:
            _require_no_engine(engine, python)
            compare = _by_server(path, endpoint, served_model, context, limit)
        loaded = load_model(
            model, attn_implementation=attn_implementation, revision=revision,
            original_length=original_length, full_attention=full_attention,
        )  # fmt: skip
        factor_set = load_set(factors)
        factor_set.require_geometry(loaded.geometry, loaded.name)
        loaded.warn_if_other_weights(factor_set.longest, str(factors))
        served = Served.of(factor_set, mode or _stated_mode(path, name) or "pinned")
        window = loaded.geometry.original_length
        tokens = options.parse_lengths(lengths, window) if lengths else default_lengths(served)
        spare = 0 if endpoint is None else NUM_SPARE
        documents = token_documents(text, loaded.tokenizer, length=max(tokens) + spare, num_documents=1)
        ids = documents.documents[0].ids.tolist()
        verification = compare(loaded, factor_set, served, ids, tokens)
        if json:
            result_json([], **verification.as_json())
        else:
            result(_table(verification))
            result(one_line(_verdict(verification)))
    if not verification.is_right:
        raise typer.Exit(MISMATCH_CODE)


def _by_engine(path: Path, name: EngineName, python: str | None) -> Comparison:
    """Asked whether it is installed before a model is loaded."""
    from ropewalk.verify.compare import verify as run

    _require_full_precision(path)
    engine = _engine(name, python)
    engine.version()

    def compare(
        loaded: "Model", factor_set: "FactorSet", served: "Served", ids: list[int], lengths: list[int]
    ) -> "VerificationResult":
        with tempfile.TemporaryDirectory(prefix="ropewalk-") as folder:
            question = _question(path, loaded, name, factor_set, served.mode, Path(folder))
            return run(question, loaded, engine, ids, lengths, on_progress=say)

    return compare


def _by_server(
    path: Path, url: str, served_model: str | None, context: int | None, limit: float | None
) -> Comparison:
    """Asked whether it is up before a model is loaded."""
    from ropewalk.errors import SettingError
    from ropewalk.verify.base_model import may_be_rounded
    from ropewalk.verify.completions import CompletionsClient, make_prompt
    from ropewalk.verify.endpoint import LIMIT, NUM_TOKENS, ROUNDED_LIMIT, deciding_context, verify_endpoint

    if limit is not None and not 0 < limit < float("inf"):
        raise SettingError(f"--limit is {limit:g} nats, but must be above 0.")
    server = CompletionsClient(url, served_model)

    def compare(
        loaded: "Model", _factor_set: "FactorSet", served: "Served", ids: list[int], lengths: list[int]
    ) -> "VerificationResult":
        target = served.long.target_length
        room = target if context is None else context
        if not NUM_TOKENS + 2 <= room <= target:
            raise SettingError(
                f"--context is {room} tokens, but must be from {NUM_TOKENS + 2} to the target of these "
                f"factors, {target}."
            )
        counts = sorted({min(length, room - NUM_TOKENS) for length in lengths})
        return verify_endpoint(
            str(path),
            served,
            deciding_context(path, room),
            loaded,
            server,
            [make_prompt(loaded.tokenizer, ids, count) for count in counts],
            limit=limit or (ROUNDED_LIMIT if may_be_rounded(path) else LIMIT),
            on_progress=say,
        )

    return compare


def _require_no_engine(engine: EngineName | None, python: str | None) -> None:
    from ropewalk.errors import SettingError

    if engine is not None or python is not None:
        raise SettingError("--endpoint asks a running server, so leave --engine and --python out.")


def _require_no_server(served_model: str | None, context: int | None, limit: float | None) -> None:
    from ropewalk.errors import SettingError

    if (served_model, context, limit) != (None, None, None):
        raise SettingError(
            "--served-model, --context and --limit are about a server: give --endpoint, or leave them out."
        )


def _engine(name: EngineName, python: str | None) -> "Engine":
    from ropewalk.errors import SettingError
    from ropewalk.verify.engines.transformers import transformers_4_engine, transformers_engine

    if name == "vllm":
        raise SettingError("vLLM is asked as a server: start `vllm serve`, and give --endpoint URL.")
    if name == "transformers4":
        return transformers_4_engine(python)
    if name == "transformers":
        return transformers_engine(python)
    from ropewalk.verify.engines.llama_cpp import llama_cpp_engine

    return llama_cpp_engine(python)


def _require_export(path: Path, engine: EngineName) -> None:
    from ropewalk.errors import ExportError
    from ropewalk.models.weight_files import INDEX, read_index

    if engine == "llama.cpp":
        if not path.is_file():
            raise ExportError(f"{path} is no file, but llama.cpp reads a GGUF file: name one.")
    elif not (path / "config.json").is_file():
        raise ExportError(f"{path} holds no config.json: name a folder that `ropewalk export hf` wrote.")
    elif (path / INDEX).exists():
        read_index(path / INDEX, str(path))  # the engine would read any file that it names


def _require_full_precision(path: Path) -> None:
    from ropewalk.errors import ExportError
    from ropewalk.verify.base_model import is_quantised_folder

    if path.is_dir() and is_quantised_folder(path):
        raise ExportError(
            f"{path} holds quantised weights, which an engine does not compute to the last digits: verify an "
            f"export of the model that they were made from, or start a server and give --endpoint."
        )


def _stated_mode(path: Path, engine: EngineName) -> "ExportMode | None":
    from ropewalk.export import manifest
    from ropewalk.export.gguf import export as gguf

    return gguf.read_gguf_mode(path) if engine == "llama.cpp" else manifest.read_folder_mode(path)


def _question(
    path: Path,
    loaded: "Model",
    engine: EngineName,
    factor_set: "FactorSet",
    mode: "ExportMode",
    folder: Path,
) -> "ExportUnderTest":
    from ropewalk.export.manifest import read_folded
    from ropewalk.verify.base_model import base_folder
    from ropewalk.verify.compare import ExportUnderTest

    if engine == "llama.cpp":
        return _gguf_question(path, loaded, factor_set, mode, folder)
    folded = read_folded(path)
    return ExportUnderTest.of(
        path,
        str(base_folder(loaded.name, folder, loaded.revision)),
        factor_set,
        mode=mode,
        folded_for=None if folded is None else folded[1],
    )


def _gguf_question(
    path: Path, loaded: "Model", factor_set: "FactorSet", mode: "ExportMode", folder: Path
) -> "ExportUnderTest":
    from ropewalk.export.gguf.export import write_base_gguf
    from ropewalk.verify.base_model import is_quantised_gguf
    from ropewalk.verify.compare import ExportUnderTest
    from ropewalk.verify.result import FLOAT32, QUANTISED

    base = Path(loaded.name)
    if base.suffix.lower() != ".gguf":
        base = folder / "base.gguf"
        write_base_gguf(loaded.name, base)
    tolerances = QUANTISED if is_quantised_gguf(path) else FLOAT32
    return ExportUnderTest.of(path, str(base), factor_set, mode=mode, tolerances=tolerances)


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
    return f"WRONG: {len(wrong)} of {len(verification.checks)} comparisons; first: {_story(wrong[0])}."


def _story(check: "Check") -> str:
    where = "" if check.length is None else f" at {check.length} tokens"
    limit = "" if check.limit is None else f", beyond {check.limit:g}"
    return f"{check.what}{where}: {_number(check.found)}{limit}"
