"""Compute the golden vectors that are shipped with the package, exactly.

    python scripts/make_golden_vectors.py            # writes them anew: the same bytes
    python scripts/make_golden_vectors.py --check    # exit code 1 where they differ

Everything is computed by mpmath to 60 digits from the numbers as they stand in the description (a factor is
the double that its decimal digits name), and rounded once, to the nearest double. Nothing of Ropewalk's own
formula is used: the tests compare that with this. See docs/golden-vectors.md.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
from safetensors.numpy import save

from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.store import write_atomically
from ropewalk.testing.golden_vectors import DESCRIPTION, VECTORS, describe_sets

DIGITS = 60
LAST = 4_194_304
EVERYWHERE = (0, 1, 2, 3, 17, 1023, 65_535, 131_072, 1_000_003, 1_999_999, 2_097_151, LAST - 1, LAST)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the files differ")
    check: bool = parser.parse_args().check
    made = make()
    if not check:
        for path, content in made.items():
            write_atomically(path, content)
        return 0
    differing = [path for path, content in made.items() if path.read_bytes() != content]
    for path in differing:
        print(f"{path} is not what this script computes.", file=sys.stderr)
    return 1 if differing else 0


def make() -> dict[Path, bytes]:
    """Both files' contents."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, (_, factor_set) in SETS.items():
        for entry in factor_set.entries:
            positions = positions_of(entry)
            cos, sin = exact(entry, positions)
            key = f"{name}.{entry.target_length}"
            tensors |= {
                f"{key}.positions": np.array(positions, dtype=np.int64),
                f"{key}.cos": cos,
                f"{key}.sin": sin,
            }
    return {VECTORS: save(tensors), DESCRIPTION: describe_sets(SETS)}


def positions_of(entry: RescaleFactors) -> list[int]:
    """Those everywhere, and both sides of n-hat, of the window and of the target."""
    edges = (entry.num_start_tokens, entry.geometry.original_length, entry.target_length)
    return sorted({*EVERYWHERE, *(edge + side for edge in edges for side in (-1, 0) if edge + side >= 0)})


def exact(entry: RescaleFactors, positions: list[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """cos and sin times the attention factor, rounded to double, (positions, pairs)."""
    geometry, (factors,) = entry.geometry, entry.rescale_factors
    cos, sin = (np.empty((len(positions), geometry.num_pairs)) for _ in range(2))
    with mpmath.workdps(DIGITS):
        attention = mpmath.mpf(entry.attention_factor)
        for pair, factor in enumerate(factors):
            frequency = mpmath.mpf(geometry.rope_theta) ** (-mpmath.mpf(2 * pair) / geometry.rotary_dim)
            for row, position in enumerate(positions):
                divisor = mpmath.mpf(1 if position < entry.num_start_tokens else factor)
                angle = position * frequency / divisor
                cos[row, pair] = float(mpmath.cos(angle) * attention)
                sin[row, pair] = float(mpmath.sin(angle) * attention)
    return cos, sin


def searched(num_pairs: int, slowest: float, knee: float) -> list[float]:
    """A curve like those that searches find: near 1 for the fastest pairs, then steep, then flat.

    Two digits, so that no processor's last bit of a power decides.
    """
    fractions = (pair / (num_pairs - 1) for pair in range(num_pairs))
    return [round(1 + (slowest - 1) / (1 + (knee / max(x, 1e-3)) ** 8), 2) for x in fractions]


def ntk(num_pairs: int, ratio: float) -> list[float]:
    return [round(ratio ** (pair / (num_pairs - 1)), 6) for pair in range(num_pairs)]


def entry(
    geometry: RopeGeometry, target: int, factors: list[float], start: int, attention: float
) -> RescaleFactors:
    return RescaleFactors.single(
        geometry=geometry,
        target_length=target,
        rescale_factors=factors,
        num_start_tokens=start,
        attention_factor=attention,
    )


def geometry(theta: float, rotary: int, head: int, window: int, layers: int) -> RopeGeometry:
    return RopeGeometry(
        head_dim=head, rotary_dim=rotary, rope_theta=theta, original_length=window, num_layers=layers
    )


CLASSIC = geometry(10_000.0, 128, 128, 4096, 32)
SMALL = geometry(10_000.0, 64, 64, 2048, 22)
ODD = geometry(10_000.0, 96, 96, 4096, 32)
NEWER = geometry(500_000.0, 128, 128, 8192, 32)
PARTIAL = geometry(10_000.0, 32, 80, 2048, 32)
PARTIAL_WIDE = geometry(1_000_000.0, 96, 128, 32_768, 40)
MILLION = geometry(1_000_000.0, 128, 128, 32_768, 28)

SETS: dict[str, tuple[str, FactorSet]] = {
    name: (about, FactorSet(entries=entries))
    for name, about, entries in (
        (
            "plain",
            "theta 1e4, 128 of 128 dimensions, nothing rescaled",
            (entry(CLASSIC, 4096, [1.0] * 64, 0, 1.0),),
        ),
        (
            "pi",
            "theta 1e4, 64 of 64: position interpolation by 4",
            (entry(SMALL, 8192, [4.0] * 32, 0, 1.0),),
        ),
        (
            "start-tokens",
            "theta 1e4, 96 of 96: a searched curve, n-hat 28",
            (entry(ODD, 131_072, searched(48, 38.17, 0.55), 28, 1.190238),),
        ),
        (
            "two-windows",
            "theta 5e5, 128 of 128: for up to 8192 tokens, and for up to 131072; each with its own n-hat",
            (
                entry(NEWER, 8192, searched(64, 1.31, 0.6), 4, 1.0),
                entry(NEWER, 131_072, searched(64, 18.9, 0.5), 64, 1.15),
            ),
        ),
        (
            "partial",
            "theta 1e4, 32 of 80: only a part of each head is turned",
            (entry(PARTIAL, 65_536, searched(16, 36.0, 0.5), 8, 1.2),),
        ),
        (
            "partial-wide",
            "theta 1e6, 96 of 128: a part of each head, no attention factor",
            (entry(PARTIAL_WIDE, 524_288, ntk(48, 16.0), 0, 1.0),),
        ),
        (
            "four-million",
            "theta 1e6, 128 of 128: to 4194304 tokens, n-hat 256",
            (entry(MILLION, LAST, searched(64, 141.55, 0.45), 256, 1.2116),),
        ),
    )
}


if __name__ == "__main__":
    raise SystemExit(main())
