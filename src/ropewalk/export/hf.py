"""Writes a checkpoint with factors in its configuration, for transformers 4 and 5, vLLM and other engines.

    source + factor set ──> out/config.json             both forms of the rotary's keys
                            out/*.safetensors           linked or copied: the same bytes
                            out/tokenizer*, generation_config.json, chat templates
                            out/ropewalk.json           the manifest: factors, source, engines
                            out/factors.json            the whole set, with --with-runtime
                            out/README.md               the model card

Weights are not read, unless an adapter is merged or the attention factor is folded into them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropewalk.errors import ExportError, ModelError, SettingError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.export import Dropped, Exported, Served, entry_name
from ropewalk.export.card import Card, Origin, write_card
from ropewalk.export.engine_notes import Facts, needs_fold, notes_for_folder, require_engine
from ropewalk.export.fold import Folded, check_folded, not_foldable, write_folded
from ropewalk.export.manifest import MANIFEST, manifest, require_unfolded
from ropewalk.export.output import new_folder, require_absent
from ropewalk.export.settings import ExportSettings
from ropewalk.export.source_checkpoint import (
    Checkpoint,
    find_checkpoint,
    is_adapter,
    read_checkpoint_json,
)
from ropewalk.factors.factor_set import FACTORS_NAME, FactorSet
from ropewalk.finetune.adapters import load_adapter, merge_adapter
from ropewalk.models.longrope_config import (
    is_computed,
    kept_keys,
    longrope_keys,
    rope_part,
    with_longest,
    with_rope_part,
)
from ropewalk.models.model import load_model
from ropewalk.models.model_files import ADAPTER_CONFIG, describe_model, read_config
from ropewalk.models.rope_config import RopeDescription
from ropewalk.models.transformers4_config import CONFIG
from ropewalk.store import hash_files

ADAPTER_FOLDER = "adapter"

SAME_FACTOR = 1e-9


def export_hf(
    source: str,
    factor_set: FactorSet,
    out: Path,
    *,
    settings: ExportSettings | None = None,
    dropped: Sequence[Dropped] = (),
    records: Sequence[EvalRecord] = (),
    origin: Origin | None = None,
) -> Exported:
    """Write a folder that engines load.

    Args:
        source: a folder, a hub name, `scale-model`, or a folder of a peft adapter that names its base.
        dropped: the measured costs of the entries that are left out.
        records: measurements for the card.
        origin: the run that the model comes from, for the card.

    Raises:
        ExportError: a configuration can't store the factors, or the engine would compute something else.
        FactorsError: the factors are for another model.
        ModelError: the source is not a complete checkpoint.
        SettingError: the adapter can't be read.
    """
    require_absent(out)
    source, settings = _resolve_adapter(source, settings or ExportSettings())
    served = Served.of(factor_set, settings.mode)
    _require_two_sets(served)
    _require_start_tokens_held(served, settings)
    description = describe_model(source, revision=settings.revision, original_length=settings.original_length)
    factor_set.require_geometry(description.geometry, source)
    plan = _Plan(
        checkpoint=find_checkpoint(source, settings.revision),
        description=description,
        settings=settings,
        wanted=served,
        stated=served,
        kept=kept_keys(_own_parameters(source, settings), served.long, source),
    )
    require_unfolded(plan.checkpoint.folder)
    if _is_fold_requested(plan):
        plan = replace(plan, stated=_stated(served, settings))
    require_engine(plan.facts, settings.serve_with)
    plan.checkpoint.require_whole()
    if settings.adapter is None:  # else the weights exist only after the merge
        plan.checkpoint.warn_if_other_weights(served.long)
    left_out = _name_dropped(served, dropped, settings)
    left_out += tuple(Dropped(what=what, cost=why) for what, why in plan.checkpoint.preferred.items())
    return _write(plan, factor_set, out, left_out, records, origin)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything that decides the content of the folder.

    Attributes:
        wanted: the factors as the set has them, before a fold.
        stated: the factors as the configuration states them: after a fold, with the engine's attention
            factor.
        kept: the other keys of the rotary's dictionary; see `kept_keys`.
    """

    checkpoint: Checkpoint
    description: RopeDescription
    settings: ExportSettings
    wanted: Served
    stated: Served
    kept: dict[str, Any]

    @property
    def facts(self) -> Facts:
        return Facts(
            served=self.stated,
            model_type=self.description.model_type,
            family=str(self.checkpoint.config.get("model_type", self.description.model_type)),
            has_runtime=self.settings.with_runtime,
            kept=self.kept,
        )

    @property
    def is_folded(self) -> bool:
        return self.stated is not self.wanted


def _write(
    plan: _Plan,
    factor_set: FactorSet,
    out: Path,
    dropped: tuple[Dropped, ...],
    records: Sequence[EvalRecord],
    origin: Origin | None,
) -> Exported:
    engines = notes_for_folder(plan.facts)
    with new_folder(out) as partial:
        _write_weights(plan, partial)
        plan.checkpoint.take_along(partial)
        _write_config(plan, partial)
        _correct_lengths(partial, plan.stated)
        folded = _finish_fold(plan, partial)
        adapter = _put_adapter(plan, partial)
        about = manifest(
            plan.checkpoint, plan.stated, kept=plan.kept, folded=folded, adapter=adapter, engines=engines,
            dropped=dropped,
        )  # fmt: skip
        (partial / MANIFEST).write_text(about, encoding="utf-8")
        if plan.settings.with_runtime:
            (partial / FACTORS_NAME).write_text(factor_set.to_json(), encoding="utf-8")
        card = Card(
            title=out.name, model=plan.checkpoint.name, revision=plan.checkpoint.revision, served=plan.wanted,
            engines=engines, dropped=dropped, folded=folded, adapter=adapter, records=tuple(records),
            origin=origin, is_tuned=_is_tuned(plan, origin),
        )  # fmt: skip
        write_card(partial, card)
        files = hash_files(partial)
    return Exported(
        path=out, target="hf", served=plan.wanted, engines=engines, dropped=dropped, files=files,
        query_scale=None if folded is None else folded.scale,
    )  # fmt: skip


def _is_tuned(plan: _Plan, origin: Origin | None) -> bool:
    """Whether these weights were trained in the run; also true if their hash is unknown."""
    if origin is None or origin.tuned_weights is None:
        return False
    return plan.checkpoint.weights_sha256 in (None, origin.tuned_weights)


# ---------------------------------------------------------------- checks


def _require_two_sets(served: Served) -> None:
    if served.mode == "switching" and served.short is served.long:
        raise ExportError(
            f"The factor set has no entry for {served.geometry.original_length} tokens, but --mode switching "
            f"needs one: use --mode pinned, or readjust at that length."
        )


def _require_start_tokens_held(served: Served, settings: ExportSettings) -> None:
    most = max(served.short.num_start_tokens, served.long.num_start_tokens)
    if most and not settings.with_runtime:
        raise ExportError(
            f"These factors have {most} start tokens (n-hat), which no configuration can store: use "
            f"--with-runtime (for Ropewalk's loader and for vLLM with its plugin), or export the run's "
            f"factors-no-start-tokens.json."
        )


def _is_fold_requested(plan: _Plan) -> bool:
    """Whether the caller requests a fold, or leaves it open and the engine needs one."""
    requested = plan.settings.fold_attention_factor
    return needs_fold(plan.facts, plan.settings.serve_with) if requested is None else requested


def _stated(served: Served, settings: ExportSettings) -> Served:
    """The factors as the configuration of folded weights states them."""
    short, long = served.short, served.long
    if settings.with_runtime:
        raise not_foldable("--with-runtime is for engines that read it")
    if long.geometry.layer_type is not None:
        raise not_foldable(
            f"this changes the queries of every layer, and these factors are for the "
            f"{long.geometry.layer_type} layers alone"
        )
    if abs(short.attention_factor - long.attention_factor) > SAME_FACTOR:
        raise ExportError(
            f"The short set has the attention factor {short.attention_factor:g} and the long one "
            f"{long.attention_factor:g}, but only one can be folded into the weights: use --mode pinned."
        )
    return served if is_computed(long, long) else served.with_computed_attention_factor()


def _name_dropped(served: Served, known: Sequence[Dropped], settings: ExportSettings) -> tuple[Dropped, ...]:
    """Every entry that is left out, with its cost if that was measured."""
    if settings.with_runtime:
        return ()
    costs = {entry.what: entry for entry in known}
    names = [entry_name(entry) for entry in served.left_out]
    return tuple(costs.get(name, Dropped(what=name)) for name in names)


# ---------------------------------------------------------------- configuration


def _own_parameters(source: str, settings: ExportSettings) -> dict[str, Any]:
    """The model's own rotary dictionary, with the defaults of its family."""
    config = read_config(source, revision=settings.revision).get_text_config(decoder=True)
    return getattr(config, "rope_parameters", None) or {}


def _write_config(plan: _Plan, folder: Path) -> None:
    keys = longrope_keys(plan.stated.short, plan.stated.long, plan.description.model_type, plan.kept)
    config = with_longest(plan.checkpoint.without_preferred(), plan.stated.long.target_length)
    config = with_rope_part(config, keys | _lifted_window(plan))
    (folder / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _lifted_window(plan: _Plan) -> dict[str, Any]:
    """The keys that lift the sliding windows, if the settings say so; empty where the windows stay.

    Raises:
        ExportError: every attention layer has a window shorter than the target and `full_attention` is off,
            or only some layers have one and `full_attention` is on.
    """
    description, name, target = plan.description, plan.checkpoint.name, plan.stated.long.target_length
    window = description.sliding_window
    if window is None or window >= target:
        return {}
    if not plan.settings.full_attention:
        try:
            description.require_long_attention(target, name)
        except ModelError as error:
            raise ExportError(str(error)) from None
        return {}
    layers, all_layers = description.num_sliding_layers, description.geometry.num_layers
    part = rope_part(plan.checkpoint.config)
    if layers < all_layers or "layer_types" in part:
        raise ExportError(
            f"{layers} of {all_layers} layers of {name} see only {window} tokens by their type, which a "
            f"configuration can't change for every engine: leave --full-attention out, or choose a target up "
            f"to {window}."
        )
    lifted: dict[str, Any] = {"sliding_window": None}
    return lifted | ({"use_sliding_window": False} if "use_sliding_window" in part else {})


def _correct_lengths(folder: Path, served: Served) -> None:
    """Raise the length limits of the tokenizer, of generation and of sentence embeddings to the target."""
    window, target = served.geometry.original_length, served.long.target_length
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        _rewrite(tokenizer, {**read_checkpoint_json(tokenizer), "model_max_length": target})
    generation = folder / "generation_config.json"
    if generation.is_file():
        values = read_checkpoint_json(generation)
        # Shorter lengths (transformers' default is 20) do not mean the window.
        if isinstance(values.get("max_length"), int) and window <= values["max_length"] < target:
            _rewrite(generation, {**values, "max_length": target})
    for path in folder.glob("sentence_*_config.json"):  # vLLM uses its limit as the model's
        if isinstance(read_checkpoint_json(path).get("max_seq_length"), int):
            _rewrite(path, {**read_checkpoint_json(path), "max_seq_length": target})
    _lift_truncation(folder / "tokenizer.json", target)


def _lift_truncation(path: Path, target: int) -> None:
    """Raise the truncation limit that a tokenizer was saved with, which would cut texts without a warning."""
    if not path.is_file():
        return
    values = read_checkpoint_json(path)
    truncation = values.get("truncation")
    if isinstance(truncation, dict) and truncation.get("max_length", target) < target:
        _rewrite(path, {**values, "truncation": {**truncation, "max_length": target}})


def _rewrite(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- weights


def _write_weights(plan: _Plan, folder: Path) -> None:
    settings = plan.settings
    if settings.adapter is not None and settings.adapter_as == "merged":
        if plan.is_folded:
            raise not_foldable(
                "one export can't also merge an adapter (export the merged model without a fold first, and "
                "then that folder with a fold)"
            )
        loaded = load_model(
            plan.checkpoint.name, dtype="auto", revision=settings.revision,
            original_length=settings.original_length,
        )  # fmt: skip
        merge_adapter(load_adapter(loaded.model, settings.adapter)).save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)  # that of the source is copied instead
    elif plan.is_folded:
        ours, engine = plan.wanted.long.attention_factor, plan.stated.long.attention_factor
        write_folded(
            plan.checkpoint, plan.description.geometry, folder, ours=ours, engine=engine,
            copy=settings.copy_weights,
        )  # fmt: skip
    else:
        plan.checkpoint.take_weights(folder, copy=settings.copy_weights)


def _finish_fold(plan: _Plan, folder: Path) -> Folded | None:
    if not plan.is_folded:
        return None
    ours, engine = plan.wanted.long.attention_factor, plan.stated.long.attention_factor
    difference = check_folded(plan.checkpoint.name, folder, plan.wanted.long, engine)
    return Folded(ours=ours, engine=engine, logit_difference=difference)


def _resolve_adapter(source: str, settings: ExportSettings) -> tuple[str, ExportSettings]:
    """The base of a source that is an adapter, with the adapter in the settings."""
    folder = Path(source)
    if not is_adapter(folder) or settings.adapter is not None:
        return source, settings
    base = read_checkpoint_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise SettingError(
            f"{source} is an adapter that names no base: give the base as the model, and it as --adapter."
        )
    return str(base), settings.model_copy(update={"adapter": folder})


def _put_adapter(plan: _Plan, folder: Path) -> dict[str, str] | None:
    """The manifest's entry for an adapter; one that is not merged is copied, with the name of its base."""
    adapter = plan.settings.adapter
    if adapter is None:
        return None
    if plan.settings.adapter_as == "beside":
        target = folder / ADAPTER_FOLDER
        target.mkdir()
        if not (adapter / ADAPTER_CONFIG).is_file() or not (adapter / "adapter_model.safetensors").is_file():
            raise SettingError(
                f"{adapter} has no {ADAPTER_CONFIG} with adapter_model.safetensors: name a folder that peft "
                f"saved."
            )
        values = read_checkpoint_json(adapter / ADAPTER_CONFIG)
        _rewrite(
            target / ADAPTER_CONFIG,
            {**values, "base_model_name_or_path": plan.checkpoint.name, "revision": plan.checkpoint.revision},
        )
        (target / "adapter_model.safetensors").write_bytes(
            (adapter / "adapter_model.safetensors").read_bytes()
        )
    return {"name": str(adapter), "as": plan.settings.adapter_as, "base": plan.checkpoint.name}
