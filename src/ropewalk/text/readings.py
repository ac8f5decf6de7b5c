"""Readings: tokens that the model reads in one forward pass, and which of them each term scores.

A text with facts is read once; its own tokens and the answers at its end are scored apart:

    <s> text text | fact | text ... | question answer
        text text          text                answer     scored by two terms
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ropewalk.text.windows import TokenWindow

GOLDEN = (math.sqrt(5) - 1) / 2  # any number of its multiples are spread evenly modulo 1
SCORED_SHARE = 1 / 8  # of the tokens of a text that are scored from kept keys
MOST_SCORED = 512  # so that longer texts cost a smaller share of their reading


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """One forward pass.

    Attributes:
        ids: shape (n,), int64.
        scored: for each term, the positions of its tokens in `ids`, int64, ascending and above 0; terms share
            no position.
        fresh: positions of tokens that always run through the model, where a text is scored from kept keys:
            the statements of facts. What makes an answer out of them is computed in several layers, and kept
            keys would show only the last one's change.
    """

    ids: Tensor
    scored: Mapping[str, Tensor]
    fresh: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

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


def choose_targets(
    reading: Reading, share: float = SCORED_SHARE, block: int = 16, *, draw: int = 0
) -> Reading:
    """The same tokens with fewer targets, so that few run through the model with kept keys.

    A term that scores more than this share of the tokens keeps blocks at evenly spread depths, so that their
    mean is near that of all its tokens. Other terms (answers) keep all targets.

    Args:
        share: of the reading's tokens that such a term still scores, above 0 and at most 1; never more than
            `MOST_SCORED` tokens.
        block: targets per block.
        draw: moves the blocks, so that the steps of a descent do not fit some tokens.
    """
    allowed = max(1, min(round(share * len(reading.ids)), MOST_SCORED))
    shift = (0.5 + GOLDEN * draw) % 1
    return Reading(
        ids=reading.ids,
        scored={
            term: positions[_chosen(len(positions), allowed, block, shift)]
            for term, positions in reading.scored.items()
        },
        fresh=reading.fresh,
    )


def _chosen(num_targets: int, allowed: int, block: int, shift: float) -> Tensor:
    """The indices of the chosen targets of a term, ascending."""
    if num_targets <= allowed:
        return torch.arange(num_targets)
    size = min(block, allowed)
    num_blocks = allowed // size
    room = num_targets / num_blocks
    starts = torch.arange(num_blocks, dtype=torch.float64) * room + shift * (room - size)
    return (starts.long().unsqueeze(1) + torch.arange(size)).flatten()
