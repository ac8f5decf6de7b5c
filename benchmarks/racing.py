"""What does racing save, and does it keep its word? A replay of the paper's 1344 candidates.

    python benchmarks/racing.py

`results/2026-11-24-racing-sums.json` holds the nats of each of five search documents for every candidate of
`results/2026-11-22-paper-budget.journal.jsonl`, measured again on the bundled model. They race in the
journal's order: how much is read, how many are dropped, and would any that was dropped have become the best?
A live search would ask for other candidates once some are dropped; a replay can't show that.
"""

import argparse
import json
import math
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.search.racing import Race, RacingSettings

RESULTS = Path(__file__).parent / "results"
SUMS = RESULTS / "2026-11-24-racing-sums.json"
VARIANTS: dict[str, dict[str, Any]] = {
    "as shipped (error 0.01)": {},
    "error 0.05": {"error": 0.05},
    "64 teachers": {"num_teachers": 64},
    "to be among the best 8": {"keep_best": 8},
    "to be among the best 32": {"keep_best": 32},
}


def replay(sums: np.ndarray, tokens: list[int], settings: RacingSettings) -> dict[str, Any]:
    """Race all candidates, shape (num_candidates, num_documents) of nats, in their order."""
    race = Race(tokens, settings)
    means = sums.sum(axis=1) / sum(tokens)
    best = np.full(settings.keep_best, math.inf)  # of all candidates so far, dropped ones too
    num_read, num_winners, num_wrong = 0, 0, 0
    dropped_after: Counter[int] = Counter()
    off = []
    for nats, mean in zip(sums, means, strict=True):
        wins = bool(mean < best.max())
        num_winners += wins
        for k in range(1, len(tokens) + 1):
            verdict = race.verdict(nats[:k])
            if verdict.drop:
                dropped_after[k] += 1
                num_wrong += wins
                off.append(abs(verdict.difference_nats - (mean - race.reference_nats)))
                break
        else:
            race.finished(nats)
        num_read += k
        best[best.argmax()] = min(best.max(), mean)
    return {
        "share_read": num_read / sums.size,
        "dropped_after": {str(k): dropped_after[k] for k in sorted(dropped_after)},
        "would_be_winners": num_winners,
        "winners_dropped": num_wrong,
        "estimate_off_median_nats": float(np.median(off)) if off else None,
        "estimate_off_95_nats": float(np.quantile(off, 0.95)) if off else None,
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| racing | documents read | dropped after 1, 2, 3, 4 | would-be winners dropped "
        "| estimate off, median (95%) |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for label, row in found.items():
        after = ", ".join(str(row["dropped_after"].get(str(k), 0)) for k in range(1, 5))
        lines.append(
            f"| {label} | {row['share_read']:.1%} | {after} | {row['winners_dropped']} of "
            f"{row['would_be_winners']} | {row['estimate_off_median_nats']:.4f} "
            f"({row['estimate_off_95_nats']:.4f}) nats |"
        )
    return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    given = json.loads(SUMS.read_text())
    sums = np.array(given["sums"])
    found = {
        label: replay(sums, given["tokens"], RacingSettings(**changes)) for label, changes in VARIANTS.items()
    }
    stem = RESULTS / f"{date.today().isoformat()}-racing"
    stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    page = (
        f"# Racing, replayed, {date.today().isoformat()}\n\n`python benchmarks/racing.py`: {len(sums)} "
        f"candidates of the paper's evolution on the bundled model, {len(given['tokens'])} documents of 2048 "
        f"tokens.\nThe number of teachers and the limit on degrees of freedom were chosen with most of these "
        f"candidates in view,\nso this is not out of sample; the simulations in "
        f"`tests/search/test_racing.py` are.\n\n{table(found)}\n"
    )
    stem.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
