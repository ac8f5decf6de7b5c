"""Few targets of a text are chosen, spread over its depths; answers are all kept."""

import pytest
import torch

from ropewalk.text.readings import MOST_SCORED, Reading, choose_targets


def reading(length: int) -> Reading:
    """A text whose last tokens are answers."""
    return Reading(
        ids=torch.arange(length),
        scored={"text": torch.arange(1, length - 10), "answers": torch.arange(length - 8, length)},
    )


@pytest.mark.parametrize("length", [300, 2048, 8192])
@pytest.mark.parametrize("share", [1 / 16, 1 / 8, 0.5])
@pytest.mark.parametrize("draw", [0, 1, 7])
def test_a_share_is_scored_in_blocks_at_evenly_spread_depths(length: int, share: float, draw: int) -> None:
    chosen = choose_targets(reading(length), share, draw=draw)
    text, num_blocks = chosen.scored["text"], min(round(share * length), MOST_SCORED) // 16

    assert len(text) == 16 * num_blocks
    assert torch.equal(chosen.scored["answers"], reading(length).scored["answers"])
    assert torch.equal(chosen.ids, reading(length).ids)
    blocks = text.view(num_blocks, 16)
    assert bool((blocks.diff(dim=1) == 1).all())
    starts = blocks[:, 0]
    assert int(starts[0]) >= 1
    assert int(text[-1]) <= length - 11
    gaps = starts.diff().tolist()
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_draws_choose_other_tokens() -> None:
    first, second = (choose_targets(reading(2048), draw=draw).scored["text"] for draw in (1, 2))
    assert len(set(first.tolist()) & set(second.tolist())) < len(first) / 2


def test_the_choice_is_deterministic_and_a_share_of_one_keeps_all() -> None:
    first, second = (choose_targets(reading(2048)).targets for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(choose_targets(reading(400), 1.0).targets, reading(400).targets)
