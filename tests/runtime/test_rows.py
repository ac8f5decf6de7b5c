"""How long a row is, and where its tokens stand."""

import pytest
import torch
from small_models import build, factor_set

from ropewalk.errors import ModelError
from ropewalk.runtime.rows import Rows, own_lengths, own_positions

MASK = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize(
    ("mask", "positions", "expected"),
    [
        (None, None, [6, 6, 6]),
        (MASK, None, [3, 6, 4]),
        (MASK.bool(), None, [3, 6, 4]),
        (MASK, torch.arange(6).expand(3, -1), [3, 6, 4]),
        (None, torch.tensor([[0, 1], [7, 8], [0, 0]]), [2, 9, 1]),
        (None, torch.tensor([[4, 5]]), [6, 6, 6]),
        (torch.ones(3, 1, 2, 6), torch.tensor([[4, 5]]), [6, 6, 6]),
        (torch.zeros(3, 6), None, [1, 1, 1]),
    ],
)
def test_a_row_is_as_long_as_its_tokens_are_many(mask, positions, expected):
    assert own_lengths(mask, positions, num_rows=3, num_tokens=2, num_cached=4) == expected


def test_positions_count_from_each_rows_first_token():
    assert own_positions(MASK, 6).tolist() == [[0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 3, 3]]
    assert own_positions(MASK, 2).tolist() == [[1, 2], [4, 5], [3, 3]]


def test_rows_that_differ_can_not_become_more():
    entries = factor_set(build()).entries
    alike, mixed = Rows(entries[:1]), Rows(entries[:2])
    assert len(alike.for_batch(4).factors) == 4
    assert mixed.for_batch(2) is mixed
    assert mixed.changed(Rows(entries[1:])) == [0, 1]
    assert mixed.part([1]).factors == entries[1:2]
    assert mixed.part([1, 0]).factors == entries[1::-1], "in this order"
    assert mixed.changed(Rows(factor_set(build()).entries[:2])) == [], "equal ones are no others"
    with pytest.raises(ModelError, match="4 rows"):
        mixed.for_batch(4)
