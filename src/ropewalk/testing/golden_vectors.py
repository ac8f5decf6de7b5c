"""Golden vectors: exact values of cos and sin, to test any implementation of rescaled RoPE.

Two files, readable without Ropewalk (docs/golden-vectors.md): `golden.json` has factor sets in the format of
a factors file; `golden.safetensors` has for each entry, at some positions up to 4,194,304:

    SET.TARGET.positions    int64     (num_positions,)
    SET.TARGET.cos          float64   (num_positions, num_pairs)    times the attention factor
    SET.TARGET.sin          float64   the same

Every value is the double nearest to the exact one, computed with mpmath by `scripts/make_golden_vectors.py`.
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
    """One entry of one factor set, with its exact values.

    Attributes:
        name: of the factor set; its entries share it.
        about: a description of one line.
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
    """Returns all golden vectors of the package, in the order of `golden.json`."""
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
    """Returns for each name the description and the factor set, without values."""
    document = read_document(DESCRIPTION, RopewalkError, file_format=FORMAT, remedy="install Ropewalk again")
    return {
        part["name"]: (part["about"], FactorSet.from_json(json.dumps(part["factor_set"]), part["name"]))
        for part in document["sets"]
    }


def describe_sets(sets: Mapping[str, tuple[str, FactorSet]]) -> bytes:
    """Returns the content of `golden.json` for these sets."""
    parts = [
        {"name": name, "about": about, "factor_set": json.loads(factor_set.to_json())}
        for name, (about, factor_set) in sets.items()
    ]
    document = envelope(FORMAT, FORMAT_VERSION, sets=parts)
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def largest_difference(golden: GoldenVector, cos: Tensor, sin: Tensor) -> float:
    """Returns the largest absolute error of values at `golden.positions`, divided by the attention factor.

    Args:
        cos, sin: values to test, shape (num_positions, num_pairs), of any dtype.
    """
    pairs = ((golden.cos, cos), (golden.sin, sin))
    largest = max(float((exact - found.to(torch.float64)).abs().max()) for exact, found in pairs)
    return largest / golden.factors.attention_factor
