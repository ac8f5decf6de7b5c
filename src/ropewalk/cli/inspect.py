"""`ropewalk inspect`: a model's rotary, and the factors of every scheme for it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import options
from ropewalk.cli.output import interruptible, one_line, result, result_json, say, table
from ropewalk.errors import SettingError

if TYPE_CHECKING:
    from ropewalk.factors.rescale_factors import RescaleFactors
    from ropewalk.models.rope_config import RopeDescription


def inspect(
    model: options.ModelArgument,
    target_length: Annotated[
        str, typer.Option(metavar="LENGTH", help="Target length: 8x (times the window), 32768 or 32k tokens.")
    ] = "8x",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the factors of every scheme into this file.")
    ] = None,
    json: options.Json = False,
    original_length: options.OriginalLength = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show a model's rotary, the pairs that never finish a turn, and the factors of each scheme.

    Reads only the configuration, no weights.

    \b
    Example:
        ropewalk inspect scale-model --target-length 8x --out factors.png
    """
    with interruptible("Nothing was written."):
        _require_png(out)
        from ropewalk.models.model_files import describe_model
        from ropewalk.report.comparison import factor_curves
        from ropewalk.report.figures import draw_factors
        from ropewalk.rope.schemes import SCHEME_NAMES, scheme_factors

        description = describe_model(
            model, revision=revision, trust_remote_code=trust_remote_code, original_length=original_length
        )
        geometry = description.geometry
        target = options.parse_target(target_length, geometry.original_length)
        schemes = {name: scheme_factors(name, geometry, target) for name in SCHEME_NAMES}
        if json:
            result_json(_records(schemes), **_facts(model, description, target))
        else:
            result(_summary(model, description, target))
            result(_table(schemes, target))
        if out is not None:
            title = f"Rescale factors from {geometry.original_length} to {target} tokens, {model}"
            unfinished = geometry.first_unfinished_pair
            curves = factor_curves(schemes)
            options.save_file(out, draw_factors(curves, first_unfinished_pair=unfinished, title=title))
            say(f"Figure: {out}")


def _require_png(out: Path | None) -> None:
    if out is not None and out.suffix.lower() != ".png":
        raise SettingError(f"--out is {out}, but the figure is a PNG: name a file that ends in .png.")


def _facts(model: str, description: "RopeDescription", target: int) -> dict[str, Any]:
    own = description.own
    return {
        "model": model,
        "model_type": description.model_type,
        "geometry": description.geometry.as_dict(),
        "geometry_fingerprint": description.geometry.fingerprint(),
        "layer_type": description.layer_type,
        "first_unfinished_pair": description.geometry.first_unfinished_pair,
        "sliding_window": description.sliding_window,
        "num_sliding_layers": description.num_sliding_layers,
        "num_attention_layers": description.num_attention_layers,
        "num_rotary_layers": description.num_rotary_layers,
        "own_scaling": None if own is None else own.provenance.strategy,
        "own_reach": description.own_reach,
        "window_notes": list(description.window_notes),
        "target_length": target,
    }


def _records(schemes: "dict[str, RescaleFactors]") -> list[dict[str, Any]]:
    return [
        {
            "factors": name,
            "target_length": factors.target_length,
            "rescale_factors": factors.array()[0].tolist(),
            "attention_factor": factors.attention_factor,
            **factors.near_values(),
        }
        for name, factors in schemes.items()
    ]


def _summary(model: str, description: "RopeDescription", target: int) -> str:
    geometry, own = description.geometry, description.own
    unfinished = geometry.first_unfinished_pair
    lines = [
        f"{model} ({description.model_type})",
        f"  trained window        {geometry.original_length} tokens",
        f"  rope_theta            {geometry.rope_theta:g}",
        f"  rotary pairs          {geometry.num_pairs} (rotary_dim {geometry.rotary_dim} "
        f"of head_dim {geometry.head_dim})",
        f"  layers                {_layers(description)}",
        f"  fingerprint           {geometry.fingerprint()[:16]}",
    ]
    if own is not None:
        lines.append(f"  own scaling           {own.provenance.strategy}, to {own.target_length} tokens")
    if description.own_problem:
        lines.append(f"  own scaling           {description.own_problem}")
    if description.own_reach > geometry.original_length:
        lines.append(f"  reads without factors {_reach(description, target)}")
    lines += [f"  note                  {note}" for note in description.window_notes]
    if description.sliding_window is not None:
        lines.append(f"  sliding window        {_window(description, target)}")
    last = geometry.num_pairs - 1
    lines.append(
        f"  unfinished pairs      {unfinished} to {last} never finish a turn inside the window: beyond it "
        f"they have angles that were never trained"
        if unfinished <= last
        else "  unfinished pairs      none: every pair finishes a turn inside the window"
    )
    return "\n".join(map(one_line, lines)) + "\n"


def _layers(description: "RopeDescription") -> str:
    num_layers, num_rotary = description.geometry.num_layers, description.num_rotary_layers
    if description.layer_type is not None:
        return f"{num_layers}; factors are for {num_rotary} of them ({description.layer_type})"
    return f"{num_layers}" if num_rotary == num_layers else f"{num_layers}, of which {num_rotary} rotate"


def _window(description: "RopeDescription", target: int) -> str:
    window, num_sliding = description.sliding_window, description.num_sliding_layers
    text = f"{window} tokens in {num_sliding} of {description.num_attention_layers} attention layers"
    if window is None or window >= target:
        return text
    return f"{text}; a longer target needs --full-attention" if description.all_layers_slide else text


def _reach(description: "RopeDescription", target: int) -> str:
    """How far the model reads before it is extended, and whether the target is beyond that."""
    reach = description.own_reach
    if target > reach:
        return f"{reach} tokens"
    instead = "use --base as-is" if description.own is not None else "correct it with --original-length"
    return f"{reach} tokens, so a target of {target} extends nothing: give a target above it, and {instead}"


def _table(schemes: "dict[str, RescaleFactors]", target: int) -> str:
    geometry = next(iter(schemes.values())).geometry
    turns = geometry.turns()
    rows = [
        [
            f"{pair}",
            f"{geometry.original_length / turns[pair]:.1f}",
            f"{turns[pair]:.2f}" + ("" if turns[pair] >= 1 else " *"),
            *(f"{factors.rescale_factors[0][pair]:.3f}" for factors in schemes.values()),
        ]
        for pair in range(geometry.num_pairs)
    ]
    rows += [
        ["attention", "", "", *(f"{factors.attention_factor:.3f}" for factors in schemes.values())],
        ["near window", "", "", *(f"{factors.near_window or ''}" for factors in schemes.values())],
        ["near attention", "", "", *(_near_attention(factors) for factors in schemes.values())],
    ]
    return table(
        f"Rescale factors at {target} tokens (* less than one turn inside the window)",
        ["pair", "tokens per turn", "turns", *schemes],
        rows,
    )


def _near_attention(factors: "RescaleFactors") -> str:
    return f"{factors.near_attention_factor:.3f}" if factors.is_near_far else ""
