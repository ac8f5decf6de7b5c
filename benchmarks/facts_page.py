"""The page of `facts.py`, and the points of its drawing."""

import datetime
import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from facts_measured import (
    BASE,
    CLOSED,
    DEFAULT,
    EVOLUTION,
    FOUR,
    LENGTHS,
    NUM_SCREENED,
    RAMPS,
    SEEN,
    TARGET,
    UNSEEN,
    VERDICTS,
    WEIGHTS,
    WINDOW,
    Measured,
    lowest,
    median_search,
    retrieval,
)
from facts_targets import targets
from frontier_figure import Point


def page(seen: Measured, name: str, about: Mapping[str, Any], command: str) -> list[str]:
    """The lines of the page."""
    versions = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    return [
        f"# Perplexity and facts at 8x, {name}, {datetime.date.today()}",
        "",
        f"`{command}`; {versions}, Python {about['python']}, {about['processor']},",
        f"{about['threads']} thread(s); weights {about['model'][:12]}. {WINDOW} to {TARGET} tokens, with the",
        f"factors of {TARGET} tokens at every length. Searches read `stdlib:search`; everything is measured",
        f"on `stdlib:held-out`, perplexity on {about['documents']} documents. Intervals are of 95%: of",
        "perplexities paired by document (Student's), of answers paired by question, where questions about",
        "one document count as correlated (Newcombe's method 10 with a design effect). The closed form that",
        "others are compared with is the best one on the same questions or documents, which favours it.",
        "",
        f"![Perplexity against answers]({datetime.date.today()}-facts-{name}.png)",
        "",
        *_retrieval_table(seen, about["questions"]),
        *_screening_table(seen),
        *_perplexity_table(seen),
        *_search_table(seen),
        *_evolution_table(seen),
        *_target_table(seen),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, left: int = 1) -> list[str]:
    """Markdown; the first columns are aligned to the left."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(map(str, row))} |" for row in (head, marks, *rows)] + [""]


def _retrieval_table(seen: Measured, num_questions: int) -> list[str]:
    head = ["facts of a text", "tokens", "best closed form", "it answers", "default search, median (range)",
            "difference in points", "verdict"]  # fmt: skip
    rows = [
        [one.kind, one.length, one.best, one.of_best, f"{one.middle} ({one.found[0]}-{one.found[-1]})",
         str(one.difference).replace(" points", ""), one.verdict]
        for one in retrieval(seen)
    ]  # fmt: skip
    base = [
        f"{kind}: {seen.right(BASE, kind, WINDOW)}"
        for kind in (SEEN, UNSEEN, FOUR)
        if seen.labels(BASE) and seen.answers(BASE, kind, WINDOW) is not None
    ]
    return [
        "## Answers by length",
        "",
        f"Right answers to {num_questions} questions. The range is over {len(seen.labels(DEFAULT))} seeds;",
        "the difference is that of the seed with the median number. Texts with one fact in an unseen wording",
        "are the most expensive and have two lengths; texts with four ask for unseen wordings at each.",
        f"The base model inside its window of {WINDOW} tokens: {'; '.join(base) or '-'}.",
        "",
        *table(head, rows),
    ]


def _screening_table(seen: Measured) -> list[str]:
    lengths = [n for n in LENGTHS if any(seen.screened(label, n) for label in seen.labels(CLOSED))]
    rows = [
        [label, *(sum(seen.screened(label, n)) if seen.screened(label, n) else "-" for n in lengths)]
        for label in seen.labels(CLOSED)
    ]
    return [
        "## Every closed form",
        "",
        f"Right answers to the first {NUM_SCREENED} questions ({SEEN}) at each length. Forms that are",
        "known to be far behind answered the others only where they answered as many of these as the best.",
        "",
        *table(["closed form", *(f"{length} tokens" for length in lengths)], rows),
    ]


def _perplexity_table(seen: Measured) -> list[str]:
    closed, ramp = lowest(seen, CLOSED), lowest(seen, RAMPS)
    head = [
        "factors",
        "kind",
        "perplexity",
        f"against {closed}",
        "verdict",
        f"against {ramp}",
        "verdict",
        *(SEEN, UNSEEN, FOUR),
    ]
    rows = []
    for label in seen.labels(CLOSED, RAMPS, DEFAULT, WEIGHTS, EVOLUTION):
        group = seen.values[f"factors {label}"]["group"]
        if not seen.has_sums(label):
            continue
        against = [cell for rival in (closed, ramp) for cell in _against(seen, label, rival)]
        found = [
            "-" if seen.answers(label, kind, TARGET) is None else seen.right(label, kind, TARGET)
            for kind in (SEEN, UNSEEN, FOUR)
        ]
        rows.append([label, group, f"{seen.perplexity(label):.3f}", *against, *found])
    return [
        f"## Perplexity and answers at {TARGET} tokens",
        "",
        "Ramps are closed forms with other parameters, whose choice on these documents is a fit to them.",
        f"Of the default search, the median is that of {median_search(seen) or '-'}.",
        "",
        *table(head, rows, left=2),
    ]


def _against(seen: Measured, label: str, rival: str | None) -> tuple[str, str]:
    """The difference in perplexity and its verdict."""
    if rival is None or rival == label:
        return "", ""
    difference = seen.difference(label, rival)
    return str(difference), VERDICTS[difference.is_lower]


def _search_table(seen: Measured) -> list[str]:
    head = [
        "search",
        "what was chosen",
        "readings, search + choice",
        "seconds",
        "largest error of kept keys, nats",
    ]
    rows = [
        [label, made["about"] or "the best candidate", f"{made['cost']:.2f} + {made['cost_of_choice']:.2f}",
         f"{made['seconds']:.0f}", _error(made)]
        for label in seen.labels(DEFAULT, WEIGHTS)
        if (made := seen.search(label)) is not None
    ]  # fmt: skip
    return ["## Searches", "", "A reading is a forward pass over all search documents.", "",
            *table(head, rows, left=2)]  # fmt: skip


def _error(made: Mapping[str, Any]) -> str:
    return "-" if made["largest_error"] is None else f"{made['largest_error']:.4f}"


def _evolution_table(seen: Measured) -> list[str]:
    head = ["evolution", "candidates judged", "readings for them", "for renewals", "in all", "seconds",
            "largest error, nats", "value, search documents", "value, unseen documents"]  # fmt: skip
    rows = []
    for label in seen.labels(EVOLUTION):
        made, values = seen.search(label), seen.exact_values(label)
        assert made is not None, label
        assert values is not None, label
        costs = [f"{made[name]:.1f}" for name in ("cost_of_candidates", "cost_of_renewals", "cost")]
        rows.append([label, made["num_candidates"], *costs, f"{made['seconds']:.0f}", _error(made),
                     f"{values['search']:.4f}", f"{values['unseen']:.4f}"])  # fmt: skip
    of_default = [
        values for label in seen.labels(DEFAULT) if (values := seen.exact_values(label)) is not None
    ]
    if of_default:
        both = [f"{median(one[which] for one in of_default):.4f}" for which in ("search", "unseen")]
        rows.append(["default search, median", *[""] * 6, *both])
    return [
        "## The paper's evolution",
        "",
        "With n-hat, every pair and no validation documents, as in the paper; initial candidates, attention",
        "factor and objective are those of the default search. Values are read in full.",
        "",
        *table(head, rows),
    ]


def _target_table(seen: Measured) -> list[str]:
    return [
        "## Targets",
        "",
        "A comparison is met where the default search is not worse than its rival, undecided where it is",
        "worse but the interval contains 0, and otherwise missed. A gain is met where an interval at",
        f"{TARGET} tokens excludes 0.",
        "",
        *table(["target", "measured", ""], targets(seen), left=3),
    ]


def points_of(seen: Measured) -> list[Point]:
    """What the drawing shows: factors with a perplexity and answers in known wordings at the target."""
    points = []
    for label in seen.labels(CLOSED, RAMPS, DEFAULT, WEIGHTS, EVOLUTION):
        answers = seen.answers(label, SEEN, TARGET)
        found = seen.screened(label, TARGET) if answers is None else [is_found for is_found, _ in answers]
        if seen.has_sums(label) and found:
            group = seen.values[f"factors {label}"]["group"]
            share = sum(found) / len(found)
            short = _short(label)
            points.append(Point(label=short, group=group, perplexity=seen.perplexity(label), share=share))
    return points


def _short(label: str) -> str:
    """A label for the drawing: `ramp 16 to 0.5`, `seed 0`, `evolution, exact`."""
    ramp = re.fullmatch(r"yarn:beta_fast=(.+),beta_slow=(.+)", label)
    return f"ramp {ramp[1]} to {ramp[2]}" if ramp else re.sub(r"^default, |, \d+ candidates$", "", label)
