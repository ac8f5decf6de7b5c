"""Few targets of a text are chosen, at its end and over its depths; answers are all kept."""

import pytest
import torch

from ropewalk.text.readings import Reading, choose_targets


def reading(length: int) -> Reading:
    """A text whose last tokens are answers."""
    return Reading(
        ids=torch.arange(length),
        scored={"text": torch.arange(1, length - 10), "answers": torch.arange(length - 8, length)},
    )


@pytest.mark.parametrize("length", [300, 2048, 8192])
@pytest.mark.parametrize("share", [1 / 16, 1 / 8, 0.5])
def test_a_share_is_scored_half_of_it_at_the_end(length: int, share: float) -> None:
    chosen = choose_targets(reading(length), share)
    text, allowed = chosen.scored["text"], round(share * length)
    num_blocks = allowed // 2 // 32
    tail = text[32 * num_blocks :]

    assert len(text) == allowed
    assert tail.tolist() == list(range(length - 10 - len(tail), length - 10))
    assert allowed / 2 <= len(tail) < allowed / 2 + 33
    assert torch.equal(chosen.scored["answers"], reading(length).scored["answers"])
    assert torch.equal(chosen.ids, reading(length).ids)
    blocks = text[: 32 * num_blocks].view(num_blocks, 32)
    assert bool((blocks.diff(dim=1) == 1).all())
    if num_blocks > 1:  # at evenly spread depths
        gaps = blocks[:, 0].diff()
        assert int(gaps.max() - gaps.min()) <= 1
        assert abs(int(blocks[0, 0]) - int(gaps[0] - 32) // 2) <= 2


def test_the_choice_is_deterministic_and_a_share_of_one_keeps_all() -> None:
    first, second = (choose_targets(reading(2048)).targets for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(choose_targets(reading(2048), 1.0).targets, reading(2048).targets)
