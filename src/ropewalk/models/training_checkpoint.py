"""A checkpoint with pinned factors in its configuration, which every engine and trainer reads alike.

Both lists of transformers' `longrope` are equal and the attention factor is stated, so that the rotation does
not depend on the length. The configuration has both forms: transformers 5 reads `rope_parameters` with theta
inside; transformers 4 and most other trainers read `rope_scaling` beside a top-level theta.
"""

import json
from pathlib import Path

from ropewalk.errors import ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.longrope_config import kept_keys, longrope_keys, with_longest, with_rope_part
from ropewalk.models.model import Model
from ropewalk.models.rope_config import RopeDescription
from ropewalk.store import write_atomically

TOLERANCE = 1e-6  # relative, of a factor, which a trainer may have converted to float32


def save_pinned(loaded: Model, factors: RescaleFactors, folder: Path) -> None:
    """Save model and tokenizer for transformers, with pinned factors in the configuration.

    Raises:
        FactorsError: the factors are for another geometry, or have a near window.
        ModelError: a configuration can't store the factors: start tokens, or one vector per layer.
        OSError: the folder can't be written.
    """
    factors.require_geometry(loaded.geometry, loaded.name)
    factors.require_plain("A transformers configuration")
    if factors.num_start_tokens or factors.per_layer:
        num_start = factors.num_start_tokens
        what = f"{num_start} start tokens" if num_start else "one vector per layer"
        raise ModelError(
            f"These factors have {what}, which no configuration can store: search with serve_with any, or "
            f"train here."
        )
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    own = getattr(loaded.model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    kept = kept_keys(own, factors, loaded.name)
    keys = longrope_keys(factors, factors, loaded.description.model_type, kept)
    config = with_rope_part(with_longest(config, factors.target_length), keys)
    write_atomically(path, json.dumps(config, indent=2).encode() + b"\n")


def require_pinned(description: RopeDescription, factors: RescaleFactors, name: str) -> None:
    """Refuse a trained checkpoint with another theta or geometry, or without the pinned factors.

    Raises:
        FactorsError: the geometry differs; names every value that differs.
        ModelError: the checkpoint has other factors, or none.
    """
    factors.require_geometry(description.geometry, name)
    found, found_short = description.own, description.own_short
    if found is None:
        reason = description.own_problem or "its configuration has no scaling"
        raise ModelError(
            f"{name} does not have the factors of its start checkpoint ({reason}): keep the `rope` keys of "
            f"the start checkpoint's config.json."
        )
    for entry in filter(None, (found, found_short)):
        difference = _difference(entry, factors)
        if difference:
            raise ModelError(
                f"{name} has other factors than its start checkpoint ({difference}): train from the start "
                f"checkpoint that this run wrote, with its config.json."
            )


def _difference(found: RescaleFactors, wanted: RescaleFactors) -> str | None:
    if abs(found.attention_factor - wanted.attention_factor) > TOLERANCE * wanted.attention_factor:
        return f"attention factor {found.attention_factor:g}, not {wanted.attention_factor:g}"
    rows = zip(found.rescale_factors[0], wanted.rescale_factors[0], strict=True)
    for pair, (ours, theirs) in enumerate(rows):
        if abs(ours - theirs) > TOLERANCE * theirs:
            return f"pair {pair} has {ours:g}, not {theirs:g}"
    return None
