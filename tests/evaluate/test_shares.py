"""Paired differences of shares: published intervals, coverage over documents, decisions."""

import numpy as np
import pytest

from ropewalk.evaluate.shares import design_effect, newcombe, paired_share_difference

NUM_SETS = 600


def table(both: int, only_ours: int, only_theirs: int, neither: int) -> tuple[list[bool], list[bool]]:
    ours = [True] * (both + only_ours) + [False] * (only_theirs + neither)
    theirs = [True] * both + [False] * only_ours + [True] * only_theirs + [False] * neither
    return ours, theirs


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), pp. 2635-2650, method 10.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((36, 14, 0, 0), 0.1528, 0.4167),
    ],
)
def test_independent_questions_have_the_published_interval(
    counts: tuple[int, ...], low: float, high: float
) -> None:
    """With a document per question only the quantile differs: Student's instead of the normal one."""
    normal = newcombe(*counts[:3], n=sum(counts), quantile=1.96)
    assert normal == pytest.approx((low, high), abs=1e-4)

    ours, theirs = table(*counts)
    found = paired_share_difference(ours, theirs, documents=range(len(ours)))
    assert (found.low, found.high) == pytest.approx(normal, abs=0.01)
    assert found.low < normal[0]
    assert found.is_higher


def test_the_two_orders_are_mirror_images() -> None:
    ours, theirs = table(20, 9, 2, 9)
    one = paired_share_difference(ours, theirs, documents=[n // 4 for n in range(40)])
    other = paired_share_difference(theirs, ours, documents=[n // 4 for n in range(40)])
    assert (one.only_ours, one.only_theirs) == (9, 2)
    assert (one.share, one.low, one.high) == pytest.approx((-other.share, -other.high, -other.low))
    assert (one.is_higher, other.is_higher) in ((True, False), (None, None))


def test_equal_answers_are_undecided_and_have_an_interval() -> None:
    found = paired_share_difference([True] * 40, [True] * 40, documents=range(40))
    assert found.share == 0
    assert found.low < 0 < found.high
    assert found.decision == "undecided"


def test_fewer_than_three_documents_have_no_interval() -> None:
    found = paired_share_difference([True] * 40, [False] * 40, documents=[n % 2 for n in range(40)])
    assert (found.share, found.low, found.high) == (1.0, None, None)
    assert found.decision == "undecided"


def test_questions_that_agree_within_a_document_count_as_fewer() -> None:
    together = [1, 1, 1, 1, 0, 0, 0, 0, -1, -1, -1, -1]
    documents = [n // 4 for n in range(12)]
    assert design_effect(together, documents) > 3
    assert design_effect(together, range(12)) == pytest.approx(1)
    assert design_effect([0] * 12, documents) == 1


@pytest.mark.parametrize(
    ("num_documents", "per_document", "ours", "theirs", "spread"),
    [
        (40, 1, 0.9, 0.8, 0.0),
        (40, 1, 0.97, 0.97, 0.0),
        (50, 4, 0.85, 0.75, 1.5),
        (10, 4, 0.6, 0.6, 1.5),
        (8, 6, 0.5, 0.3, 3.0),
        (3, 10, 0.6, 0.5, 1.0),
    ],
)
def test_intervals_cover_the_difference_over_all_documents(
    num_documents: int, per_document: int, ours: float, theirs: float, spread: float
) -> None:
    """Documents differ in difficulty, by `spread` logits, and in how much one set of factors gains there."""
    random = np.random.default_rng(0)
    documents = np.repeat(np.arange(num_documents), per_document)

    def chances(share: float, difficulty: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(np.log(share / (1 - share)) + difficulty + gain)))

    many = random.normal(0, 1, size=(3, 200_000)) * spread / np.sqrt(2)
    true = np.mean(chances(ours, many[0], many[1]) - chances(theirs, many[0], many[2]))
    covered = 0
    for _ in range(NUM_SETS):
        drawn = random.normal(0, 1, size=(3, num_documents)) * spread / np.sqrt(2)
        here = [
            random.random(len(documents)) < chances(share, drawn[0], gain)[documents]
            for share, gain in ((ours, drawn[1]), (theirs, drawn[2]))
        ]
        found = paired_share_difference(here[0].tolist(), here[1].tolist(), documents=documents.tolist())
        covered += found.low <= true <= found.high
    assert covered / NUM_SETS >= 0.93
