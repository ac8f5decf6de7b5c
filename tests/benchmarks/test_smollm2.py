"""`benchmarks/smollm2.py`: parts of a text, and the page of what was measured."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import smollm2

SIZES = smollm2.Sizes(window=8, target=16, num_test=3, questions=1)
WHERE = {"processor": "a processor", "threads": 2, "code": "abc"}
LABELS = {smollm2.BASE: 0.2, smollm2.WRITTEN: 0.1}


def measured():
    """Three documents: the result of the search has half of the nats, and finds every fact."""
    found = {}
    for number in range(3):
        for label, nats in LABELS.items():
            nll = torch.full((15,), nats * (1 + number))
            parts = {part: smollm2.of_part(nll, *ends) for part, ends in SIZES.parts.items()}
            answer = {"is_found": label == smollm2.WRITTEN, "document": number}
            found[f"nats / {label} / {number}"] = {"nats": parts, "where": WHERE}
            found[f"found / chat / {label} / 16 / {number} / 0"] = {"answers": [answer], "where": WHERE}
    return found


def test_the_parts_of_a_text_score_each_token_once_and_the_first_never():
    nll = torch.arange(15.0)  # of positions 1 to 15
    parts = {part: smollm2.of_part(nll, *ends) for part, ends in SIZES.parts.items()}
    assert parts["within the window"] == [sum(range(7)), 7]
    assert parts["past the window"] == [sum(range(7, 15)), 8]
    assert parts["last 4"] == [11 + 12 + 13 + 14, 4]
    assert parts["all"] == [sum(range(15)), 15]


def test_the_page_pairs_the_result_of_the_search_with_the_others():
    texts = [{"package": "a-doc", "version": "1", "path": "usr/a.txt", "sha256": "f" * 64}] * 9
    sizes = {name: value for name, value in vars(SIZES).items() if name not in smollm2.MAY_GROW}
    about = {"sizes": sizes, "versions": {"torch": "2"}, "weights": "e" * 64, "texts": texts}
    page = smollm2.page({"date": "2026-01-01", "about": about, "measured": measured()})
    assert "| chat | result of the search | 16 | 3 of 3 |" in page
    against = next(
        line for line in page.splitlines() if line.startswith("| chat | base model | 16 | 0 of 3 |")
    )
    assert "+100.0 points" in against
    differences = page.split("Difference of the result")[1]
    assert "| base model | -18.1% (" in differences  # exp(-0.2) - 1: 0.1, 0.2 and 0.3 nats lower
