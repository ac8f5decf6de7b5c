"""Readings: tokens that the model reads in one forward pass, and which of them each term scores.

A text with facts is read once; its own tokens and the answers at its end are scored apart:

    <s> text text | fact | text ... | question answer
        text text          text                answer     scored by two terms
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ropewalk.text.windows import TokenWindow

GOLDEN = (math.sqrt(5) - 1) / 2  # any number of its multiples are spread evenly modulo 1
JUDGED_SHARE = 1 / 8
BLOCK = 32  # tokens
FEW_TARGETS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """One forward pass.

    Attributes:
        ids: shape (n,), int64.
        scored: for each term, the positions of its tokens in `ids`, int64, ascending and above 0; terms share
            no position.
    """

    ids: Tensor
    scored: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        assert self.scored, "a reading scores something"
        assert all(len(positions) for positions in self.scored.values()), "a term scores something"
        targets = self.targets
        assert int(targets[0]) >= 1, targets
        assert int(targets[-1]) < len(self.ids), targets
        assert bool((targets.diff() > 0).all()), "terms share no position"

    @cached_property
    def targets(self) -> Tensor:
        """The positions of all scored tokens, ascending."""
        return torch.cat(list(self.scored.values())).sort().values

    def num_scored(self, term: str) -> int:
        """How many tokens a term scores here."""
        return len(self.scored[term]) if term in self.scored else 0

    def of_targets(self, values: Tensor, term: str) -> Tensor:
        """The values of a term's tokens.

        Args:
            values: one per token of `targets`, in their order.
        """
        return values[torch.searchsorted(self.targets, self.scored[term])]

    def weights(self, of_terms: Mapping[str, float]) -> Tensor:
        """For each token of `targets`, the weight of its term; float64."""
        weights = torch.zeros(len(self.targets), dtype=torch.float64)
        for term, positions in self.scored.items():
            weights[torch.searchsorted(self.targets, positions)] = of_terms[term]
        return weights

    @classmethod
    def of_window(cls, window: TokenWindow, term: str) -> "Reading":
        """The reading of a window whose tokens one term scores."""
        num_tokens = len(window.ids)
        return cls(ids=window.ids, scored={term: torch.arange(num_tokens - window.num_scored, num_tokens)})


def readings_of(windows: Sequence[TokenWindow], term: str) -> tuple[Reading, ...]:
    """A reading per window, all scored by one term."""
    return tuple(Reading.of_window(window, term) for window in windows)


def judged(reading: Reading, draw: int = 0) -> Reading:
    """The reading with a part of its targets, for evaluations whose cost is that of their targets.

    A term of many tokens keeps an eighth of them: half of these at its end, where the context is longest, the
    others in blocks that are spread evenly over its depth. A term of few tokens (answers) keeps all.

    Args:
        draw: shifts the blocks, so that the steps of a descent score other tokens.
    """
    shift = GOLDEN * draw % 1
    return replace(
        reading, scored={term: _judged(positions, shift) for term, positions in reading.scored.items()}
    )


def _judged(positions: Tensor, shift: float) -> Tensor:
    if len(positions) <= FEW_TARGETS:
        return positions
    num_blocks = round(JUDGED_SHARE * len(positions) / BLOCK)
    at_end = max(1, num_blocks // 2)
    first = BLOCK * round(shift * at_end) if shift else 0  # the end moves by less than its own length
    end = len(positions) - first
    before = end - at_end * BLOCK
    room = before / max(1, num_blocks - at_end)  # of each of the other blocks
    within = (0.5 + shift) % 1 * max(0.0, room - BLOCK)
    starts = [int(index * room + within) for index in range(num_blocks - at_end)]
    return torch.cat([*(positions[start : start + BLOCK] for start in starts), positions[before:end]])
