"""`ropewalk export`: writes a model with its factors for engines, and repairs checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ropewalk.cli import options
from ropewalk.cli.output import interruptible, result, result_json, say, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ropewalk.evaluate.records import EvalRecord
    from ropewalk.export import Dropped, Exported, Served
    from ropewalk.export.card import Origin
    from ropewalk.export.settings import ExportSettings
    from ropewalk.factors.factor_set import FactorSet

app = typer.Typer(rich_markup_mode=None, help="Ship a model with its factors, for engines to serve.")

Factors = Annotated[Path, typer.Option("--factors", metavar="FILE", help="A factors file, or a factor set.")]
Out = Annotated[Path, typer.Option("--out", metavar="PATH", help="What to write; it must not exist.")]
ModeOption = Annotated[
    Literal["pinned", "switching"],
    typer.Option(
        help="One set for every length, or the set's entry for the window up to there and the longest beyond."
    ),
]
NOTHING_WRITTEN = "Nothing was written."


@app.command()
def hf(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder, a hub name, scale-model, or a peft adapter that names its base."
        ),
    ],
    factors: Factors,
    out: Out,
    mode: ModeOption = "pinned",
    serve_with: Annotated[
        str,
        typer.Option(
            metavar="ENGINE",
            help="Refuse what this engine would serve wrongly: transformers, transformers4, vllm, sglang, "
            "mlx-lm, tensorrt-llm, ropewalk; any: list the wrong ones.",
        ),
    ] = "any",
    fold_attention_factor: Annotated[
        bool | None,
        typer.Option(
            "--fold-attention-factor/--no-fold-attention-factor",
            help="Fold the attention factor into the query weights, if engines compute another one; by "
            "default only if the engine of --serve-with does.",
            show_default=False,
        ),
    ] = None,
    with_runtime: Annotated[
        bool,
        typer.Option(
            "--with-runtime",
            help="Include the whole factor set, for `ropewalk.load` and the vLLM plugin; needed for n-hat.",
        ),
    ] = False,
    adapter: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A LoRA adapter of MODEL, as peft saved it.")
    ] = None,
    adapter_as: Annotated[
        Literal["merged", "beside"],
        typer.Option(help="Merge the adapter into the weights, or ship it in a folder next to the base's."),
    ] = "merged",
    run: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A run whose measurements the model's card shows."),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Measure on this text what leaving entries out costs; loads the model."
        ),
    ] = None,
    revision: options.Revision = None,
    original_length: options.OriginalLength = None,
    full_attention: options.FullAttention = False,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy",
            help="Copy the weight files; by default they are hard links, where all may read them.",
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Write a checkpoint for transformers 4 and 5 and vLLM, with the factors in its configuration.

    Weights are linked or copied, never loaded, unless an adapter is merged or the attention factor folded in.

    \b
    Example:
        ropewalk export hf scale-model --factors runs/mine/factors.json --out shipped/mine
        ropewalk verify shipped/mine --model scale-model --factors runs/mine/factors.json
    """
    with interruptible(NOTHING_WRITTEN):
        from ropewalk.export.hf import export_hf
        from ropewalk.export.output import require_absent
        from ropewalk.export.settings import ExportSettings
        from ropewalk.factors.factor_set import load_set

        require_absent(out)
        factor_set = load_set(factors)
        settings = ExportSettings(
            mode=mode, serve_with=serve_with, fold_attention_factor=fold_attention_factor,
            with_runtime=with_runtime, adapter=adapter, adapter_as=adapter_as, full_attention=full_attention,
            original_length=original_length, revision=revision, copy_weights=copy,
        )  # fmt: skip
        records, origin = _records(run), _origin(run, model, factor_set, factors)
        dropped = _measured(model, factor_set, settings, measure) if measure else []
        exported = export_hf(
            model, factor_set, out, settings=settings, dropped=dropped, records=records, origin=origin
        )
        _tell(exported, json)


@app.command()
def gguf(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A .gguf file, or the folder of a Llama checkpoint.")
    ],
    factors: Factors,
    out: Out,
    mode: ModeOption = "pinned",
    base: Annotated[
        Path | None,
        typer.Option(
            "--gguf",
            metavar="FILE",
            help="A GGUF file of the same weights as the folder MODEL; the factors go into a copy of it.",
        ),
    ] = None,
    original_length: options.OriginalLength = None,
    json: options.Json = False,
) -> None:
    """Write a GGUF file for llama.cpp: a copy with the factors added, or a Llama checkpoint in float32.

    \b
    Example:
        ropewalk export gguf scale-model --factors runs/mine/factors.json --out shipped/mine.gguf
        ropewalk export gguf model-q4.gguf --factors factors.json --out model-q4-long.gguf
    """
    with interruptible(NOTHING_WRITTEN):
        from ropewalk.export.gguf.export import export_gguf
        from ropewalk.factors.factor_set import load_set

        factor_set = load_set(factors)
        exported = export_gguf(model, factor_set, out, mode=mode, base=base, original_length=original_length)
        _tell(exported, json)


@app.command()
def repair(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A checkpoint that transformers 5 saved, as a Trainer does."),
    ],
    json: options.Json = False,
) -> None:
    """Restore the keys that transformers 4, and engines that follow it, read.

    Transformers 5 drops them in every save, and a reader of the older form then uses theta 10000.

    \b
    Example:
        ropewalk export repair trained/checkpoint-500
    """
    from ropewalk.export import rewrite_keys

    changed = rewrite_keys(folder)
    if json:
        result_json([{"path": str(folder), "changed": changed}])
        return
    state = "has both forms of its rotary's keys again" if changed else "had both forms already"
    result(f"{folder} {state}.")


def _measured(
    model: str, factor_set: "FactorSet", settings: "ExportSettings", text: str
) -> "Sequence[Dropped]":
    from ropewalk.export import Served
    from ropewalk.export.entry_costs import measure_left_out
    from ropewalk.models.model import load_model

    served = Served.of(factor_set, settings.mode)
    loaded = load_model(
        model, revision=settings.revision, original_length=settings.original_length,
        full_attention=settings.full_attention,
    )  # fmt: skip
    return measure_left_out(loaded, served, text)


def _records(run: Path | None) -> "list[EvalRecord]":
    """The measurements of a search's or a recipe's run."""
    if run is None:
        return []
    from ropewalk.recipe.finished_run import read_records

    return read_records(run)


def _origin(run: Path | None, model: str, factor_set: "FactorSet", factors: Path) -> "Origin | None":
    """The run that the model comes from: the one that was named, or that whose `result` the model is."""
    from ropewalk.recipe.finished_run import read_origin, require_same_search
    from ropewalk.recipe.run_folder import PipelineFolder

    if run is None:
        around = PipelineFolder(Path(model).absolute().parent)
        is_result = around.recipe_path.is_file() and around.result_path == Path(model).absolute()
        return read_origin(around.path) if is_result else None
    origin = read_origin(run)
    if origin is not None:
        require_same_search(origin, factor_set.longest.provenance.settings.get("run_id"), factors)
    return origin


def _tell(exported: "Exported", json: bool) -> None:
    if json:
        result_json([exported.as_json()])
        return
    if exported.query_scale is not None:
        say(
            f"The attention factor is folded into the query weights: their rotated rows are multiplied by "
            f"{exported.query_scale:.6g}."
        )
    rows = [[note.engine, note.answer, note.what] for note in exported.engines]
    result(table(f"{exported.path} has {_what(exported.served)}.", ["engine", "right", ""], rows))
    for dropped in exported.dropped:
        say(f"Left out: {dropped.what} ({dropped.cost or 'its cost was not measured'}).")


def _what(served: "Served") -> str:
    window, target = served.geometry.original_length, served.long.target_length
    if served.mode == "pinned":
        return f"one set of factors, for up to {target} tokens"
    return f"two sets of factors, up to {window} tokens and up to {target}"
