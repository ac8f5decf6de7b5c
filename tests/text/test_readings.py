"""One forward pass, several terms: which tokens each of them scores."""

import pytest
import torch

from ropewalk.text.readings import Reading, readings_of
from ropewalk.text.windows import TokenWindow

IDS = torch.arange(100, 110)


def reading(**scored: list[int]) -> Reading:
    return Reading(ids=IDS, scored={term: torch.tensor(positions) for term, positions in scored.items()})


def test_targets_are_the_tokens_of_all_terms_in_their_order() -> None:
    found = reading(text=[1, 2, 6], answers=[4, 9])
    assert found.targets.tolist() == [1, 2, 4, 6, 9]
    assert (found.num_scored("text"), found.num_scored("answers"), found.num_scored("other")) == (3, 2, 0)
    values = torch.tensor([0.1, 0.2, 0.4, 0.6, 0.9])
    assert found.of_targets(values, "text").tolist() == values[[0, 1, 3]].tolist()
    assert found.of_targets(values, "answers").tolist() == values[[2, 4]].tolist()
    weights = found.weights({"text": 0.5, "answers": 2.0})
    assert weights.tolist() == [0.5, 0.5, 2.0, 0.5, 2.0]
    assert weights.dtype == torch.float64


@pytest.mark.parametrize(
    "scored", [{}, {"a": []}, {"a": [0, 1]}, {"a": [10]}, {"a": [1, 2], "b": [2]}, {"a": [3, 3]}]
)
def test_wrong_positions_are_a_defect(scored: dict[str, list[int]]) -> None:
    with pytest.raises(AssertionError):
        reading(**scored)


def test_a_window_is_read_as_one_term() -> None:
    windows = [TokenWindow(ids=IDS, num_scored=9), TokenWindow(ids=IDS[:4], num_scored=1)]
    whole, last = readings_of(windows, "nll")
    assert whole.scored["nll"].tolist() == list(range(1, 10))
    assert last.scored["nll"].tolist() == [3]
    assert last.ids.tolist() == [100, 101, 102, 103]
