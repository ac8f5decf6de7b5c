"""Compares the rotary's keys in an exported `config.json` with the keys for the factors.

An engine reads only one of the two forms, so running it does not show that the other form is missing (after a
save of transformers 5, or an edit). An engine that reads the other form then uses theta 10000. Therefore both
forms are compared, key by key, including the dictionaries of other layer types, which an export does not
change.
"""

import math
import reprlib
import sys
from pathlib import Path
from typing import Any

from ropewalk.export import Served
from ropewalk.export.manifest import read_kept
from ropewalk.models.longrope_config import longrope_keys, rope_part
from ropewalk.models.transformers4_config import CONFIG, read_config_file
from ropewalk.verify.result import Check

TOLERANCE = 1e-9


def check_configuration(folder: Path, stated: Served) -> Check:
    """Compare both forms of the rotary's keys.

    Args:
        stated: the factors that the configuration should state (after a fold, with the engine's factor).

    Raises:
        ModelError: the configuration can't be read.
        ExportError: the manifest can't be read.
    """
    part = rope_part(read_config_file(folder / CONFIG))
    wanted = longrope_keys(stated.short, stated.long, part.get("model_type", ""), read_kept(folder))
    wrong = [name for key, value in wanted.items() for name in _differences(key, part.get(key), value)]
    return Check(what="config.json", is_right=not wrong, found=", ".join(wrong) or "both forms")


def _differences(name: str, found: Any, wanted: Any) -> list[str]:
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [f"{name} is missing"]
        extra = [f"{name}.{key} is extra" for key in found if key not in wanted]
        inner = [one for key in wanted for one in _differences(f"{name}.{key}", found.get(key), wanted[key])]
        return inner + extra
    if found is None or wanted is None:
        return [] if found is wanted else [f"{name} is {'missing' if found is None else 'extra'}"]
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted) and all(map(_same, found, wanted))
        return [] if same else [f"{name} differs"]
    return [] if _same(found, wanted) else [f"{name} is {reprlib.repr(found)}, not {wanted!r}"]


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, str) or isinstance(found, str):
        return bool(found == wanted)
    is_number = isinstance(found, (int, float)) and abs(found) <= sys.float_info.max
    return is_number and math.isclose(found, wanted, rel_tol=TOLERANCE)
