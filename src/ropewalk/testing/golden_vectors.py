"""Golden vectors: cos and sin that are known exactly, for one's own implementation to be tested by.

Two files, readable without Ropewalk (docs/golden-vectors.md): `golden.json` holds factor sets in the format
of a factors file, and `golden.safetensors` for each entry, at a few positions of up to 4,194,304:

    SET.TARGET.positions    int64     (num_positions,)
    SET.TARGET.cos          float64   (num_positions, num_pairs)    times the attention factor
    SET.TARGET.sin          float64   the same

Every value is the double nearest to the exact one; `scripts/make_golden_vectors.py` computes them by mpmath.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ropewalk.errors import RopewalkError
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.store import envelope, read_document

FOLDER = Path(__file__).parent / "golden"
VECTORS = FOLDER / "golden.safetensors"
DESCRIPTION = FOLDER / "golden.json"
FORMAT = "ropewalk.golden"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldenVector:
    """One entry of one factor set, with its exact table.

    Attributes:
        name: the set's; two entries of a set share it.
        about: what it is, in a line.
        factors: geometry, rescale factors, n-hat and attention factor.
        positions: (num_positions,), int64, ascending.
        cos, sin: (num_positions, num_pairs), float64, times the attention factor.
    """

    name: str
    about: str
    factors: RescaleFactors
    positions: Tensor
    cos: Tensor
    sin: Tensor


def golden_vectors() -> tuple[GoldenVector, ...]:
    """All that are shipped, in the order of their description."""
    tensors = load_file(VECTORS)
    return tuple(
        GoldenVector(
            name=name,
            about=about,
            factors=entry,
            **{kind: tensors[f"{name}.{entry.target_length}.{kind}"] for kind in ("positions", "cos", "sin")},
        )
        for name, (about, factor_set) in golden_sets().items()
        for entry in factor_set.entries
    )


def golden_sets() -> dict[str, tuple[str, FactorSet]]:
    """Name to what it is and the factor set, without any table."""
    document = read_document(DESCRIPTION, RopewalkError, file_format=FORMAT, remedy="install Ropewalk again")
    return {
        part["name"]: (part["about"], FactorSet.from_json(json.dumps(part["factor_set"]), part["name"]))
        for part in document["sets"]
    }


def describe_sets(sets: Mapping[str, tuple[str, FactorSet]]) -> bytes:
    """The content of the description."""
    parts = [
        {"name": name, "about": about, "factor_set": json.loads(factor_set.to_json())}
        for name, (about, factor_set) in sets.items()
    ]
    document = envelope(FORMAT, FORMAT_VERSION, sets=parts)
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def largest_difference(golden: GoldenVector, cos: Tensor, sin: Tensor) -> float:
    """How far a table for `golden.positions` is off at most, as if the attention factor were 1.

    Args:
        cos, sin: shape (num_positions, num_pairs), of any dtype.
    """
    pairs = ((golden.cos, cos), (golden.sin, sin))
    largest = max(float((exact - found.to(torch.float64)).abs().max()) for exact, found in pairs)
    return largest / golden.factors.attention_factor
