"""Faults of conversions, planted into an exported folder. `ropewalk verify` must find each of them.

They test the verification, and new engines: a comparison that passes a folder with a fault proves nothing.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from ropewalk.export.manifest import MANIFEST
from ropewalk.models.longrope_config import rope_part
from ropewalk.models.transformers4_config import CONFIG

ConfigKeys = dict[str, Any]
ConfigChange = Callable[[ConfigKeys], None]  # changes the keys of the rotary in place

SCALING_KEYS = ("rope_parameters", "rope_scaling")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of an exported folder.

    Attributes:
        name: what is wrong.
        plant: changes a folder so that it has the fault.
        needs: the kind of export that can have it: `switching`, `partial` (rotary), `folded`, or `` for all.
    """

    name: str
    plant: Callable[[Path], None]
    needs: str = ""


def faults() -> tuple[Fault, ...]:
    """All faults."""
    return (
        _fault("factors dropped", _drop_factors),
        _fault("theta lost", _lose_theta),
        _fault("attention factor missing", _lose_attention),
        _fault("attention factor applied twice", _attention_twice),
        _fault("pairs in reverse order", _each_list(lambda values: values[::-1])),
        _fault("factors multiply instead of dividing", _each_list(lambda values: [1 / v for v in values])),
        _fault("factors rounded to one digit", _each_list(lambda values: [round(v, 1) for v in values])),
        _fault("lists of another geometry", _each_list(lambda values: values[: len(values) // 2])),
        _fault("max_position_embeddings left at the window", _keep_longest),
        _fault("keys of transformers 4 lost in a save", _lose_keys_of_4),
        _fault("sets swapped", _swap_sets, "switching"),
        _fault("long set in both lists", _long_in_both, "switching"),
        _fault("threshold one token early", _move_threshold(-1), "switching"),
        _fault("threshold one token late", _move_threshold(1), "switching"),
        _fault("partial rotary lost", _lose_partial, "partial"),
        Fault(name="attention factor folded twice", plant=_fold_twice, needs="folded"),
        Fault(name="another model's weights", plant=_change_weights),
    )


def _fault(name: str, change: ConfigChange, needs: str = "") -> Fault:
    return Fault(name=name, plant=lambda folder: _change_config(folder, change), needs=needs)


def _change_config(folder: Path, change: ConfigChange) -> None:
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    keys = json.loads(json.dumps(rope_part(config)))  # a copy, in which no dictionary is shared
    change(keys)
    changed = keys if rope_part(config) is config else {**config, "text_config": keys}
    path.write_text(json.dumps(changed), encoding="utf-8")


def _scalings(keys: ConfigKeys) -> list[ConfigKeys]:
    return [keys[name] for name in SCALING_KEYS if name in keys]


def _remove_everywhere(keys: ConfigKeys, name: str) -> None:
    for part in [keys, *_scalings(keys)]:
        part.pop(name, None)


def _drop_factors(keys: ConfigKeys) -> None:
    keys.pop("rope_scaling", None)
    keys["rope_parameters"] = {"rope_type": "default", "rope_theta": keys["rope_theta"]}


def _lose_theta(keys: ConfigKeys) -> None:
    _remove_everywhere(keys, "rope_theta")


def _lose_attention(keys: ConfigKeys) -> None:
    for scaling in _scalings(keys):
        for name in ("attention_factor", "short_mscale", "long_mscale"):
            scaling.pop(name, None)


def _attention_twice(keys: ConfigKeys) -> None:
    for scaling in _scalings(keys):
        scaling["attention_factor"] **= 2


def _each_list(change: Callable[[list[float]], list[float]]) -> ConfigChange:
    def plant(keys: ConfigKeys) -> None:
        for scaling in _scalings(keys):
            for name in ("short_factor", "long_factor"):
                scaling[name] = change(scaling[name])

    return plant


def _keep_longest(keys: ConfigKeys) -> None:
    keys["max_position_embeddings"] = keys["original_max_position_embeddings"]


def _lose_keys_of_4(keys: ConfigKeys) -> None:
    for name in ("rope_scaling", "rope_theta"):
        keys.pop(name, None)


def _swap_sets(keys: ConfigKeys) -> None:
    for scaling in _scalings(keys):
        scaling["short_factor"], scaling["long_factor"] = scaling["long_factor"], scaling["short_factor"]


def _long_in_both(keys: ConfigKeys) -> None:
    for scaling in _scalings(keys):
        scaling["short_factor"] = scaling["long_factor"]


def _move_threshold(by: int) -> ConfigChange:
    def plant(keys: ConfigKeys) -> None:
        for part in [keys, *_scalings(keys)]:
            if "original_max_position_embeddings" in part:
                part["original_max_position_embeddings"] += by

    return plant


def _lose_partial(keys: ConfigKeys) -> None:
    _remove_everywhere(keys, "partial_rotary_factor")


def _fold_twice(folder: Path) -> None:
    """The attention factor is in the weights, and in the configuration too."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))

    def state_again(keys: ConfigKeys) -> None:
        for scaling in _scalings(keys):
            scaling["attention_factor"] = manifest["folded"]["ours"]

    _change_config(folder, state_again)


def _change_weights(folder: Path) -> None:
    """One query projection is larger by a twentieth."""
    path = next(iter(sorted(folder.glob("*.safetensors"))))
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if "q_proj" in name or "qkv_proj" in name)
    path.unlink()  # it may be a hard link to the source's file
    save_file({**tensors, name: tensors[name] * 1.05}, path, metadata={"format": "pt"})
