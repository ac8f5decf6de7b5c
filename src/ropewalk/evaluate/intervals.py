"""95% intervals: what a number would have been on other documents, or other trials."""

import math
from collections.abc import Sequence

import numpy as np

from ropewalk.evaluate.nll import NllSum

FEWEST_DOCUMENTS = 3
NUM_RESAMPLES = 10_000
Z = 1.959963984540054  # the normal quantile at 0.975


def perplexity_interval(sums: Sequence[NllSum], seed: int) -> tuple[float, float] | tuple[None, None]:
    """Percentile bootstrap of the perplexity over documents; (None, None) with fewer than 3 of them.

    Documents are drawn with replacement, each with its tokens, so the perplexity stays token-weighted. It
    says how far other documents of this kind would move the number; not that two schemes differ on these.
    """
    if len(sums) < FEWEST_DOCUMENTS:
        return None, None
    drawn = np.random.default_rng(seed).integers(len(sums), size=(NUM_RESAMPLES, len(sums)))
    nats = np.array([entry.nll_sum_nats for entry in sums])[drawn].sum(axis=1)
    tokens = np.array([entry.num_tokens for entry in sums])[drawn].sum(axis=1)
    low, high = np.quantile(nats / tokens, [0.025, 0.975])
    return math.exp(low), math.exp(high)


def rise_interval(
    before: Sequence[NllSum], after: Sequence[NllSum], seed: int
) -> tuple[float, float] | tuple[None, None]:
    """Percentile bootstrap of the rise in nats a token, the same documents before and after; None below 3.

    Each drawn document brings both of its sums, so that what makes a document hard cancels out.
    """
    assert [entry.num_tokens for entry in before] == [entry.num_tokens for entry in after], "the same tokens"
    if len(before) < FEWEST_DOCUMENTS:
        return None, None
    drawn = np.random.default_rng(seed).integers(len(before), size=(NUM_RESAMPLES, len(before)))
    rises = np.array([b.nll_sum_nats - a.nll_sum_nats for a, b in zip(before, after, strict=True)])
    tokens = np.array([entry.num_tokens for entry in before])[drawn].sum(axis=1)
    low, high = np.quantile(rises[drawn].sum(axis=1) / tokens, [0.025, 0.975])
    return float(low), float(high)


def wilson(found: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share found / n (J. Am. Stat. Assoc. 22, 1927), within 0 .. 1."""
    assert 0 <= found <= n, (found, n)
    assert n > 0, n
    share, z2 = found / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends rounding leaves 1e-17 where the formula gives exactly 0 or 1.
    return (0.0 if found == 0 else centre - half, 1.0 if found == n else centre + half)
