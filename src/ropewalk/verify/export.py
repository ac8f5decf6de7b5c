"""`verify_export`: an export at a path, loaded by an engine or served, against what Ropewalk computes."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ropewalk.errors import ExportError, SettingError
from ropewalk.export import ExportMode, Served, manifest
from ropewalk.export.gguf.export import read_gguf_mode, write_base_gguf
from ropewalk.export.manifest import read_folded
from ropewalk.factors.factor_set import FactorSet, load_set
from ropewalk.models.model import Model
from ropewalk.models.settings import ModelSettings
from ropewalk.models.weight_files import INDEX, read_index
from ropewalk.text.tokens import token_documents
from ropewalk.units import parse_length
from ropewalk.verify.base_model import base_folder, is_quantised_folder, is_quantised_gguf, may_be_rounded
from ropewalk.verify.cases import default_lengths
from ropewalk.verify.compare import ExportUnderTest, verify
from ropewalk.verify.completions import NUM_SPARE, CompletionsClient, make_prompt
from ropewalk.verify.endpoint import LIMIT, NUM_TOKENS, ROUNDED_LIMIT, deciding_context, verify_endpoint
from ropewalk.verify.engines import Engine
from ropewalk.verify.engines.llama_cpp import llama_cpp_engine
from ropewalk.verify.engines.transformers import transformers_4_engine, transformers_engine
from ropewalk.verify.result import FLOAT32, QUANTISED, VerificationResult

OnProgress = Callable[[str], None]
Comparison = Callable[[Model, FactorSet, Served, list[int], list[int]], VerificationResult]


def verify_export(
    path: str | Path,
    model: str | ModelSettings,
    factors: str | Path,
    *,
    engine: str | None = None,
    python: str | None = None,
    lengths: Sequence[int | str] | None = None,
    text: str = "stdlib",
    mode: ExportMode | None = None,
    on_progress: OnProgress | None = None,
) -> VerificationResult:
    """Load an export with its engine, and compare frequencies, logits and perplexity with Ropewalk's.

    Args:
        path: the export: a folder, or a GGUF file.
        model: the model that was exported, without changes.
        factors: the file of the factors that the export should contain.
        engine: transformers, transformers4 or llama.cpp; by default transformers for a folder, llama.cpp for
            a GGUF file.
        python: the Python of an environment that has the engine; by default this one.
        lengths: tokens, or multiples of the window such as `8x`; by default around the window and up to
            16384 tokens.
        text: what is read; a source as of `token_documents`.
        mode: how the factors were exported, where the export does not say so itself.
        on_progress: gets a line of text before each slow step.

    Returns:
        All comparisons; `is_right` says whether the engine computes what the factors say.

    Raises:
        MissingEngineError: the engine is not installed.
        EngineError: the engine can't read the base model, so that nothing can be compared.
        ExportError: no export is at the path, or it has quantised weights.
        FactorsError: the factors are for another model.
        ModelError: as `load_model`.
        SettingError: an engine that is not known, or a length that is out of range.
    """
    path = Path(path)
    name = engine or _default_engine(path)
    _require_export(path, name)
    if path.is_dir() and is_quantised_folder(path):
        raise ExportError(
            f"{path} holds quantised weights, which an engine does not compute to the last digits: verify an "
            f"export of the model that they were made from, or start a server and give --endpoint."
        )
    loader = _engine(name, python)
    loader.version()  # before a model is loaded: whether the engine is installed

    def compare(
        loaded: Model, factor_set: FactorSet, served: Served, ids: list[int], tokens: list[int]
    ) -> VerificationResult:
        with tempfile.TemporaryDirectory(prefix="ropewalk-") as folder:
            export = _export_under_test(path, loaded, name, factor_set, served.mode, Path(folder))
            return verify(export, loaded, loader, ids, tokens, on_progress=on_progress)

    return _compare(compare, path, model, factors, name, lengths, text, mode, num_spare=0)


def verify_served_export(
    path: str | Path,
    model: str | ModelSettings,
    factors: str | Path,
    url: str,
    *,
    served_model: str | None = None,
    context: int | None = None,
    limit: float | None = None,
    lengths: Sequence[int | str] | None = None,
    text: str = "stdlib",
    mode: ExportMode | None = None,
    on_progress: OnProgress | None = None,
) -> VerificationResult:
    """As `verify_export`, by the completions of an OpenAI-compatible server that serves the export.

    Args:
        url: of the server.
        served_model: the model's name there; by default its only one.
        context: tokens that the server was started for; by default the factors' target.
        limit: nats that log-probabilities may be off in the mean; by default by the precision of the export.

    Raises:
        EngineError: the server fails, or reads other tokens.
        ExportError: no export is at the path.
        FactorsError: the factors are for another model.
        ModelError: as `load_model`.
        SettingError: a limit, context or length that is out of range.
    """
    path = Path(path)
    name = _default_engine(path)
    _require_export(path, name)
    if limit is not None and not 0 < limit < float("inf"):
        raise SettingError(f"--limit is {limit:g} nats, but must be above 0.")
    server = CompletionsClient(url, served_model)  # before a model is loaded: whether it answers

    def compare(
        loaded: Model, _factor_set: FactorSet, served: Served, ids: list[int], tokens: list[int]
    ) -> VerificationResult:
        target = served.long.target_length
        available = target if context is None else context
        if not NUM_TOKENS + 2 <= available <= target:
            raise SettingError(
                f"--context is {available} tokens, but must be from {NUM_TOKENS + 2} to the target of these "
                f"factors, {target}."
            )
        counts = sorted({min(length, available - NUM_TOKENS) for length in tokens})
        return verify_endpoint(
            str(path),
            served,
            deciding_context(path, available),
            loaded,
            server,
            [make_prompt(loaded.tokenizer, ids, count) for count in counts],
            limit=limit or (ROUNDED_LIMIT if may_be_rounded(path) else LIMIT),
            on_progress=on_progress,
        )

    return _compare(compare, path, model, factors, name, lengths, text, mode, num_spare=NUM_SPARE)


def _compare(
    compare: Comparison,
    path: Path,
    model: str | ModelSettings,
    factors: str | Path,
    engine: str,
    lengths: Sequence[int | str] | None,
    text: str,
    mode: ExportMode | None,
    *,
    num_spare: int,
) -> VerificationResult:
    """Load model, factors and text, and compare.

    Args:
        num_spare: tokens that the text has beyond the longest length.
    """
    loaded = (model if isinstance(model, ModelSettings) else ModelSettings(name=model)).load()
    factor_set = load_set(factors)
    factor_set.require_geometry(loaded.geometry, loaded.name)
    loaded.warn_if_other_weights(factor_set.longest, str(factors))
    served = Served.of(factor_set, mode or _stated_mode(path, engine) or "pinned")
    window = loaded.geometry.original_length
    tokens = (
        default_lengths(served)
        if lengths is None
        else sorted({parse_length(str(length), window) for length in lengths})
    )
    documents = token_documents(text, loaded.tokenizer, length=max(tokens) + num_spare, num_documents=1)
    return compare(loaded, factor_set, served, documents.documents[0].ids.tolist(), tokens)


def _default_engine(path: Path) -> str:
    return "llama.cpp" if path.suffix == ".gguf" else "transformers"


def _engine(name: str, python: str | None) -> Engine:
    if name == "transformers":
        return transformers_engine(python)
    if name == "transformers4":
        return transformers_4_engine(python)
    if name == "llama.cpp":
        return llama_cpp_engine(python)
    if name == "vllm":
        raise SettingError("vLLM is verified as a server: start `vllm serve`, and give --endpoint URL.")
    raise SettingError(
        f"The engine is {name!r:.60}, but must be transformers, transformers4, llama.cpp or vllm."
    )


def _require_export(path: Path, engine: str) -> None:
    if engine == "llama.cpp":
        if not path.is_file():
            raise ExportError(f"{path} is no file, but llama.cpp reads a GGUF file: name one.")
    elif not (path / "config.json").is_file():
        raise ExportError(f"{path} holds no config.json: name a folder that `ropewalk export hf` wrote.")
    elif (path / INDEX).exists():
        read_index(path / INDEX, str(path))  # the engine would read any file that it names


def _stated_mode(path: Path, engine: str) -> ExportMode | None:
    return read_gguf_mode(path) if engine == "llama.cpp" else manifest.read_folder_mode(path)


def _export_under_test(
    path: Path, loaded: Model, engine: str, factor_set: FactorSet, mode: ExportMode, folder: Path
) -> ExportUnderTest:
    """The export, and the base model in the form that the engine reads; `folder` is for that."""
    if engine == "llama.cpp":
        base = Path(loaded.name)
        if base.suffix.lower() != ".gguf":
            base = folder / "base.gguf"
            write_base_gguf(loaded.name, base)
        tolerances = QUANTISED if is_quantised_gguf(path) else FLOAT32
        return ExportUnderTest.of(path, str(base), factor_set, mode=mode, tolerances=tolerances)
    folded = read_folded(path)
    return ExportUnderTest.of(
        path,
        str(base_folder(loaded.name, folder, loaded.revision)),
        factor_set,
        mode=mode,
        folded_for=None if folded is None else folded[1],
    )
