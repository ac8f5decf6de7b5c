"""`ropewalk factors`: shows and checks factors files, and makes one from a configuration or a CSV."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import options
from ropewalk.cli.output import one_line, result, result_json, say, table
from ropewalk.errors import FactorsError, SettingError
from ropewalk.units import LONGEST, parse_length

if TYPE_CHECKING:
    from ropewalk.factors.geometry import RopeGeometry
    from ropewalk.factors.rescale_factors import RescaleFactors

app = typer.Typer(rich_markup_mode=None, help="Show, convert and check factors files.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="A factors file.")]
ForModel = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="A folder, a hub name, a .gguf file, or scale-model."),
]


@app.command()
def show(file: File, json: options.Json = False) -> None:
    """Print a factors file (or a factor set): its geometry, its values, and how it was made.

    \b
    Example:
        ropewalk factors show runs/mine/factors.json
    """
    from ropewalk.factors.factor_set import FactorSet

    factor_set = FactorSet.load(file)
    entries = (factor_set.longest,) if factor_set.is_alone else factor_set.entries
    if json:
        result_json([factors.as_document() for factors in entries])
        return
    if len(entries) > 1:
        result(f"{file} is a factor set; the shortest entry that a sequence fits in serves it.\n")
    for factors in entries:
        result(_described(str(file), factors))
        result(_table(factors))


@app.command()
def check(
    file: File,
    model: ForModel = None,
    revision: options.Revision = None,
    original_length: options.OriginalLength = None,
    json: options.Json = False,
) -> None:
    """Check that a factors file is whole and keeps its rules; with --model, that it fits that model.

    \b
    Example:
        ropewalk factors check runs/mine/factors.json --model scale-model
    """
    from ropewalk.factors.factor_set import FactorSet

    factors = FactorSet.load(file)
    if model is not None:
        factors.require_geometry(_geometry_of(model, revision, original_length), model)
    fits = f", and fits {model}" if model else ""
    if json:
        result_json([{"file": str(file), "valid": True, "fits": model}])
    else:
        kind = "factors file" if factors.is_alone else "factor set"
        result(f"{file} is a valid {kind}{fits}.")


@app.command()
def convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A model's config.json (or its folder), or a CSV: one number per line."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="The factors file to write; stdout by default.")
    ] = None,
    target_length: Annotated[
        str | None,
        typer.Option(metavar="LENGTH", help="CSV: the target length of the factors: 8x, 32768, 32k."),
    ] = None,
    model: ForModel = None,
    rope_theta: Annotated[float | None, typer.Option(help="CSV without --model: the base.")] = None,
    rotary_dim: Annotated[int | None, typer.Option(help="CSV without --model: dimensions rotated.")] = None,
    head_dim: Annotated[
        int | None, typer.Option(help="CSV without --model: size of a head; rotary_dim by default.")
    ] = None,
    num_layers: Annotated[int | None, typer.Option(help="CSV without --model: decoder layers.")] = None,
    original_length: options.OriginalLength = None,
    num_start_tokens: Annotated[int, typer.Option(min=0, max=LONGEST, help="CSV: n-hat, tokens.")] = 0,
    attention_factor: Annotated[float, typer.Option(help="CSV: the factor of cos and sin.")] = 1.0,
    revision: options.Revision = None,
) -> None:
    """Make a factors file from the scaling in a transformers config.json, or from a column of numbers.

    \b
    Examples:
        ropewalk factors convert ./my-model/config.json --out factors.json
        ropewalk factors convert 32k.csv --model ./my-model --target-length 32k --out factors.json
        ropewalk factors convert 32k.csv --rope-theta 10000 --rotary-dim 128 --num-layers 32 \\
            --original-length 4096 --target-length 32k --out factors.json
    """
    source = file / "config.json" if file.is_dir() else file
    if source.suffix.lower() == ".json":
        factors = _from_config(source, original_length)
    else:
        given = {
            "rope_theta": rope_theta, "rotary_dim": rotary_dim,
            "head_dim": head_dim, "num_layers": num_layers,
        }  # fmt: skip
        geometry = _csv_geometry(given, model, revision, original_length)
        factors = _from_csv(source, geometry, target_length)
        factors = factors.replace(num_start_tokens=num_start_tokens, attention_factor=attention_factor)
    if out is None:
        result(factors.to_json().rstrip())
    else:
        options.save_file(out, factors.to_json().encode())
        say(f"Written: {out}")


def _from_config(path: Path, original_length: int | None) -> "RescaleFactors":
    from ropewalk.models.rope_config import factors_from_config

    try:
        config = json_format.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FactorsError(
            f"{path} does not exist: name a config.json, a model's folder, or a CSV."
        ) from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise FactorsError(f"{path} is not whole JSON ({error}).") from None
    if not isinstance(config, dict):
        raise FactorsError(f"{path} is JSON, but no model configuration.")
    return factors_from_config(config, original_length=original_length, name=str(path))


def _from_csv(path: Path, geometry: "RopeGeometry", target_length: str | None) -> "RescaleFactors":
    from ropewalk.factors.rescale_factors import load_factors

    if target_length is None:
        raise SettingError(f"{path} does not say which length it was made for: give --target-length.")
    target = parse_length(target_length, geometry.original_length, "The target length")
    return load_factors(path, geometry=geometry, target_length=target)


def _csv_geometry(
    given: dict[str, Any], model: str | None, revision: str | None, original_length: int | None
) -> "RopeGeometry":
    from ropewalk.factors.geometry import RopeGeometry

    if model is not None:
        return _geometry_of(model, revision, original_length)
    given = {
        **given,
        "head_dim": given["head_dim"] or given["rotary_dim"],
        "original_length": original_length,
    }
    missing = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is None]
    if missing:
        raise SettingError(f"A column of numbers has no geometry: give --model, or {', '.join(missing)}.")
    return RopeGeometry(**given)


def _geometry_of(model: str, revision: str | None, original_length: int | None) -> "RopeGeometry":
    from ropewalk.models.model_files import describe_model

    return describe_model(model, revision=revision, original_length=original_length).geometry


def _described(name: str, factors: "RescaleFactors") -> str:
    geometry, provenance = factors.geometry, factors.provenance
    commit = f", revision {provenance.revision}" if provenance.revision else ""
    how = f"{provenance.strategy or 'unknown'}, seed {provenance.seed}, base {provenance.base}"
    ratio = f"{factors.extension_ratio:g}x"
    lines = [
        name,
        f"  lengths            {geometry.original_length} to {factors.target_length} tokens ({ratio})",
        f"  geometry           theta {geometry.rope_theta:g}, {geometry.num_pairs} pairs, "
        f"{geometry.num_layers} layers ({geometry.fingerprint()[:16]})",
        f"  num_start_tokens   {factors.num_start_tokens}",
        f"  attention_factor   {factors.attention_factor:g}",
        *(f"  {name:<18} {value:g}" for name, value in factors.near_values().items()),
        f"  made on            {provenance.model or 'unknown'}{commit}",
        f"  how                {how}",
    ]
    if provenance.objective is not None:
        lines.append(f"  objective          {provenance.objective}: {provenance.objective_value}")
    for key, value in {**provenance.settings, **provenance.versions}.items():
        lines.append(f"  {key:<18} {json_format.dumps(value) if not isinstance(value, str) else value}")
    return "\n".join(map(one_line, lines)) + "\n"


def _table(factors: "RescaleFactors") -> str:
    turns = factors.geometry.turns()
    columns = [f"layer {index}" for index in range(len(factors.rescale_factors))]
    rows = [
        [f"{pair}", f"{turns[pair]:.2f}", *(f"{row[pair]:.4f}" for row in factors.rescale_factors)]
        for pair in range(factors.geometry.num_pairs)
    ]
    return table(
        "Rescale factors", ["pair", "turns", *(columns if factors.per_layer else ["rescale factor"])], rows
    )
