"""Tables of the base model as it was trained: schemes by ratio, n-hat alone, attention on first tokens."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniature.bench import Bench
from miniature.page import Claim, Grid, Page, Rows, curve
from miniature.readings import Reading, against, cell, lowest, verdict
from ropewalk.evaluate.intervals import Difference, mean_interval
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.report.figures import SEARCHED, draw_perplexity
from ropewalk.rope.schemes import scheme_factors

# The paper searches with attention factor 1; these two differ in n-hat alone.
LAMBDA: dict[str, Any] = {"attention_factor": "1", "start_tokens": "none", "serve_with": "ropewalk"}
LAMBDA_AND_START: dict[str, Any] = {"attention_factor": "1", "start_tokens": "search"}
PAPERS_START_TOKENS = 16


def factors_of(bench: Bench, label: str, length: int) -> RescaleFactors | None:
    """A scheme's factors, or what is searched at a length under that label."""
    if label == SEARCHED:
        return bench.search("searched", length)
    if label == "lambda":
        return bench.search("lambda", length, **LAMBDA)
    if label == "lambda and n-hat":
        return bench.search("lambda-and-n-hat", length, **LAMBDA_AND_START)
    return scheme_factors(label, bench.geometry, length)


def untuned_reading(bench: Bench, label: str, length: int) -> Reading | None:
    return bench.reading(bench.base, label, factors_of(bench, label, length), length)


# ---------------------------------------------------------------- by ratio


def by_ratio(bench: Bench) -> Page:
    """Perplexity of every scheme at each ratio, its factors made for that ratio."""
    ratios, window = bench.settings.ratios, bench.window
    labels = (*bench.settings.schemes, SEARCHED)
    found = {
        (label, ratio): untuned_reading(bench, label, ratio * window) for label in labels for ratio in ratios
    }
    both = {
        (label, ratio): untuned_reading(bench, label, ratio * window)
        for label in ("pi", "lambda", "lambda and n-hat")
        for ratio in ratios
    }
    at_window = bench.reading(bench.base, "none", None, window, plain=True)
    columns = [f"{ratio}x ({ratio * window})" for ratio in ratios]
    rows: Rows = [[label, *(found[label, ratio] for ratio in ratios)] for label in labels]
    rows += [
        [f"searched against {label}", *(against(found[SEARCHED, r], found[label, r]) for r in ratios)]
        for label in labels[:-1]
    ]
    ablation: Rows = [
        [label, *(both[label, ratio] for ratio in ratios)] for label in ("pi", "lambda", "lambda and n-hat")
    ]
    gain = {r: against(both["lambda and n-hat", r], both["lambda", r]) for r in ratios}
    ablation.append(["what n-hat changes", *gain.values()])
    verdicts = []
    for ratio in ratios:
        best = lowest([found[label, ratio] for label in labels[:-1]])
        difference = against(found[SEARCHED, ratio], best)
        name = best.label if best is not None else "the best scheme"
        verdicts.append(
            f"{verdict(difference)} at {ratio}x, that searched factors read better than the best scheme "
            f"here: against {name}, {cell(difference)}."
        )
    verdicts += [_of_start_tokens(bench, ratio, gain[ratio]) for ratio in ratios]

    def figure() -> bytes:
        curves = [
            drawn
            for label in labels
            if (drawn := curve(label, [at_window, *(found[label, ratio] for ratio in ratios)])) is not None
        ]
        title = "Without tuning: perplexity against length, factors made for each length"
        return draw_perplexity(curves, original_length=window, title=title)

    return Page(
        grids=[
            Grid("Perplexity (95% interval), and paired differences:", ["scheme", *columns], rows),
            Grid(
                "Both non-uniformities, attention factor 1 (Table 11):", ["factors", *columns], ablation
            ),
        ],
        verdicts=verdicts,
        notes=(
            f"At its window of {window} the model has {at_window}. `dynamic-ntk` follows the length of the "
            f"text, which here is the length that the factors are made for, so it is `ntk`. `searched` is "
            f"the best searched candidate of Ropewalk's default (attention factor searched, n-hat 0)."
        ),
        figure=figure,
    )  # fmt: skip


def _of_start_tokens(bench: Bench, ratio: int, gain: Difference | None) -> str:
    factors = factors_of(bench, "lambda and n-hat", ratio * bench.window)
    claim = f"at {ratio}x, that n-hat adds to searched lambdas"
    if factors is None:
        return f"Cannot be said yet {claim}: the search is not done."
    if factors.num_start_tokens == 0:
        return f"Does not hold {claim}: where n-hat could be chosen, the search left it at 0."
    return f"{verdict(gain)} {claim}: n-hat {factors.num_start_tokens} was chosen, {gain}."


# ---------------------------------------------------------------- n-hat alone


def start_tokens_alone(bench: Bench) -> Page:
    """Closed forms and searched lambdas with nothing changed but n-hat."""
    labels = ("pi", "ntk", SEARCHED)
    ratios, window, counts = bench.settings.sweep_ratios, bench.window, bench.settings.start_tokens
    columns = [(label, ratio) for ratio in ratios for label in labels]
    found = {
        (label, ratio, count): sweep_reading(bench, label, ratio, count)
        for label, ratio in columns
        for count in counts
    }
    header = ["n-hat", *(f"{label} at {ratio}x ({ratio * window})" for label, ratio in columns)]
    rows = [[str(count), *(found[label, ratio, count] for label, ratio in columns)] for count in counts]
    plain = min(counts)
    changes = [
        [str(count), *(against(found[label, r, count], found[label, r, plain]) for label, r in columns)]
        for count in counts[1:]
    ]
    verdicts = []
    for label, ratio in columns:
        without = found[label, ratio, plain]
        best = lowest([found[label, ratio, count] for count in counts if count != plain])
        largest = against(found[label, ratio, counts[-1]], without)
        said = against(best, without)
        verdicts.append(
            f"{verdict(said)} for {label} at {ratio}x, that an n-hat lowers perplexity: the best one, "
            f"{'not known' if best is None else best.label} (picked on these same documents), {cell(said)}; "
            f"{counts[-1]}, {cell(largest)}"
            + (
                f"; the paper's {PAPERS_START_TOKENS}, "
                f"{cell(against(found[label, ratio, PAPERS_START_TOKENS], without))}."
                if PAPERS_START_TOKENS in counts
                else "."
            )
        )
    return Page(
        grids=[
            Grid("Perplexity (95% interval):", header, rows),
            Grid("Paired differences against n-hat 0:", header, changes),
        ],
        verdicts=verdicts,
        notes="n-hat is a number of tokens: 16 is 0.4% of the paper's window and more of a shorter one.",
    )


def sweep_reading(bench: Bench, label: str, ratio: int, count: int) -> Reading | None:
    length = ratio * bench.window
    factors = factors_of(bench, label, length)
    at = None if factors is None else factors.replace(num_start_tokens=count)
    return bench.reading(bench.base, f"n-hat {count}", at, length)


# ---------------------------------------------------------------- attention on the first tokens


def attention_mass(bench: Bench) -> Page:
    """Attention on the first tokens by layer, at the window and with searched factors beyond it."""
    window, ratio = bench.window, max(bench.settings.ratios)
    searched = factors_of(bench, SEARCHED, ratio * window)
    grids, verdicts = [], []
    cases: list[tuple[str, RescaleFactors | None, int]] = [("as trained", None, window)]
    if searched is not None or bench.task == "count":
        cases.append((SEARCHED, searched, ratio * window))
    for label, factors, length in cases:
        counts = [2**power for power in range(min(window, length // 2).bit_length())]
        measured = bench.attention(bench.base, label, factors, length, counts)
        if measured is None:
            continue
        shares = np.array([one["by_layer"] for one in measured])  # (documents, layers, counts)
        uniform = measured[0]["uniform"]
        header = ["first tokens", *map(str, counts)]
        rows = [
            [f"layer {layer}", *(_share(shares[:, layer, k]) for k in range(len(counts)))]
            for layer in range(shares.shape[1])
        ]
        rows.append(["even attention", *(f"{value:.1%}" for value in uniform)])
        grids.append(Grid(f"{label}, {length} tokens, {len(measured)} documents:", header, rows))
        mean = shares.mean(axis=1)
        four = counts.index(4) if 4 in counts else 0
        verdicts.append(
            f"{label} at {length}: the first {counts[four]} tokens get {_share(mean[:, four])} of attention "
            f"where even attention gives {uniform[four]:.1%}; the first alone {_share(mean[:, 0])}."
        )
    verdicts += _best_start_tokens(bench)
    return Page(
        grids=grids,
        verdicts=verdicts,
        notes=(
            "Mean over heads and the queries of a document's second half, with a 95% interval over documents."
        ),
    )


def _best_start_tokens(bench: Bench) -> list[str]:
    said = []
    counts = bench.settings.start_tokens
    for ratio in bench.settings.sweep_ratios:
        for label in ("pi", "ntk", SEARCHED):
            found = [sweep_reading(bench, label, ratio, count) for count in counts]
            best = lowest(found)
            if best is not None and None not in found:
                said.append(
                    f"The best n-hat of the sweep for {label} at {ratio}x is {best.label.split()[-1]}."
                )
    return said


def _share(values: NDArray[np.float64]) -> str:
    low, high = mean_interval(values.tolist(), [1] * len(values))
    bounds = "" if low is None or high is None else f" ({low:.1%}-{high:.1%})"
    return f"{np.mean(values):.1%}{bounds}"


CLAIMS = (
    Claim(
        "untuned",
        "Without tuning, by scheme and ratio",
        "Table 1 (LLaMA2-7B, 4k window, PG19): at 2x PI 10.65, Dynamic NTK 10.21, YaRN 32.64, searched 9.37; "
        "at 4x 20.49, 23.29, 87.89, 11.34. Table 11 (PG19 at 4x and 8x): PI 14.88 and 136.3, lambda 7.28 and "
        "13.00, lambda and n-hat 7.22 and 11.51. Figure 3 draws perplexity against the ratio.",
        by_ratio,
    ),
    Claim(
        "start-tokens",
        "n-hat alone",
        "Table 2 (PI at 4x): 20.49 without n-hat, 19.64 with 16, 34.65 with 256.",
        start_tokens_alone,
    ),
    Claim(
        "attention",
        "Attention on the first tokens, beside the best n-hat",
        "no table of its own; n-hat is said to help because the first tokens get much of the attention, and "
        "Table 11 finds it worth nothing at 2048k.",
        attention_mass,
    ),
)
