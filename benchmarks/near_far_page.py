"""The page of `near_far.py`."""

import datetime
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from facts_measured import (
    CLOSED,
    DEFAULT,
    RAMPS,
    VERDICTS,
    Measured,
    lowest,
    median_search,
)
from facts_page import table
from near_far_measured import (
    KINDS,
    LEAST_OF_BASE,
    SEARCHED,
    Ratio,
    choices,
    chosen,
    found,
    judged,
    targets,
)
from near_far_speed import DECODING, KEYS, NUM_STEPS, OURS, PLAIN, PREFILL, costs
from ropewalk.rope.schemes import NEAR_FAR

GROUPS = (SEARCHED, NEAR_FAR, CLOSED, RAMPS, DEFAULT)


def page(seen: Measured, name: str, about: Mapping[str, Any], command: str) -> list[str]:
    """The lines of the page."""
    versions = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    return [
        f"# Near-far factors, untrained, {name}, {datetime.date.today()}",
        "",
        f"`{command}`; {versions}, Python {about['python']}, {about['processor']},",
        f"{about['threads']} thread(s); weights {about['model'][:12]}.",
        "",
        *_choice_table(seen, about),
        *_perplexity_table(seen, about),
        *_answer_table(seen, about),
        *_base_tables(seen, about),
        *_rival_tables(seen, about),
        *_search_table(seen),
        *_cost_table(seen, about),
        *_target_table(seen, about),
    ]


def _choice_table(seen: Measured, about: Mapping[str, Any]) -> list[str]:
    tried = choices(seen)
    if not tried:
        return []
    far = sorted({one.far for one in tried})
    values = {(one.window, one.near, one.far): one.value for one in tried}
    rows = [
        [window, f"{near:g}", *(f"{values[window, near, one]:.4f}" if (window, near, one) in values else "-"
                                for one in far)]
        for window, near in sorted({(one.window, one.near) for one in tried})
    ]  # fmt: skip
    best = chosen(seen)
    assert best is not None, tried
    return [
        "## Choice of the attention factors",
        "",
        f"The objective of the default search on {about['choice_documents']} documents of `stdlib:search`,",
        f"{about['target']} tokens each: lower is better. Of each window W the lowest is measured below. The",
        f"targets judge the lowest of all, `{best.scheme}`,",
        "and the seed of the near-far search with the median perplexity.",
        "",
        *table(["W", "near attention factor", *(f"far {one:g}" for one in far)], rows, left=2),
    ]


def _perplexity_table(seen: Measured, about: Mapping[str, Any]) -> list[str]:
    closed, searched = lowest(seen, CLOSED, RAMPS), median_search(seen)
    labels = [label for label in seen.labels(*GROUPS) if seen.has_sums(label)]
    if not labels:
        return []
    rows = [
        [label, seen.values[f"factors {label}"]["group"], f"{seen.perplexity(label):.3f}",
         *(_ratio(seen, label, rival) for rival in (closed, searched))]
        for label in labels
    ]  # fmt: skip
    head = ["factors", "kind", "perplexity", f"/ {closed}", f"/ {searched or 'searched'}"]
    return [
        f"## Perplexity at {about['target']} tokens",
        "",
        f"On {about['documents']} documents of `stdlib:held-out`, on which nothing was chosen. Ratios have",
        "95% intervals, paired by document (Student's). The closed form, with published or other parameters,",
        "is the best one on these documents, which favours it; of the default search it is the seed with the",
        "median perplexity.",
        "",
        *table(head, rows, left=2),
    ]


def _ratio(seen: Measured, label: str, rival: str | None) -> str:
    return "" if rival in (None, label) else str(Ratio.of(seen.difference(label, str(rival))))


def _asked(seen: Measured, lengths: Sequence[int]) -> list[str]:
    """The factors that answered all kinds of questions at all lengths, equal ones under one label."""
    return [
        label
        for label in seen.labels(*GROUPS)
        if (seen.name(label) == label or label == median_search(seen))
        and all(seen.answers(label, kind, length) is not None for kind in KINDS for length in lengths)
    ]


def _answer_table(seen: Measured, about: Mapping[str, Any]) -> list[str]:
    lengths, labels = about["lengths"], _asked(seen, about["lengths"])
    if not labels:
        return []
    cells = [(kind, length) for kind in KINDS for length in lengths]
    rows = [[label, *(seen.right(label, kind, length) for kind, length in cells)] for label in labels]
    head = ["factors", *(f"{kind}, {length}" for kind, length in cells)]
    return [
        "## Answers",
        "",
        f"Right answers to {about['questions']} questions about facts in `stdlib:held-out`, by the facts of",
        "a text, their wordings and the tokens of the text. The factors are those of",
        f"{about['target']} tokens at every length, those by length excepted.",
        "",
        *table(head, rows),
    ]


def _base_tables(seen: Measured, about: Mapping[str, Any]) -> list[str]:
    window = about["window"]
    rows = [
        [ours, one.kind, one.length, one.of_base, one.found, f"{one.ratio:.0%}",
         str(one.difference).replace(" points", ""), one.result]
        for ours in judged(seen)
        for one in found(seen, ours, about["lengths"], window)
    ]  # fmt: skip
    if not rows:
        return []
    head = ["factors", "facts of a text", "tokens", f"base model, {window} tokens", "near-far",
            "of the base model's", "difference in points", f"at least {LEAST_OF_BASE:.0%}"]  # fmt: skip
    return [
        "## Answers, compared with the base model inside its window",
        "",
        "Question i is about the same document at every",
        "length, but asks for another fact. Differences are paired by question, and questions about one",
        "document count as correlated (Newcombe's method 10 with a design effect). The last column is",
        f"undecided where the interval contains {LEAST_OF_BASE:.0%} of the base model's share, which is",
        "taken as known.",
        "",
        *table(head, rows),
    ]


def _rival_tables(seen: Measured, about: Mapping[str, Any]) -> list[str]:
    """Against whatever else answers the most questions of a kind at a length."""
    asked = _asked(seen, about["lengths"])
    rivals = [label for label in asked if label in seen.labels(CLOSED, RAMPS, DEFAULT)]
    if not rivals:
        return []
    rows = []
    for ours, kind, length in itertools.product(judged(seen), KINDS, about["lengths"]):
        if ours not in asked:
            continue
        right = {label: seen.right(label, kind, length) for label in rivals}
        rival = max(rivals, key=right.__getitem__)
        difference = seen.share_difference(ours, rival, kind, length)
        rows.append([ours, kind, length, seen.right(ours, kind, length), rival, right[rival],
                     str(difference).replace(" points", ""), VERDICTS[difference.is_higher]])  # fmt: skip
    head = ["factors", "facts of a text", "tokens", "near-far", "best other", "it answers",
            "difference in points", "verdict"]  # fmt: skip
    return [
        "## Answers, compared with the best other factors",
        "",
        "Against what answers the most of the same questions, which favours it.",
        "",
        *table(head, rows),
    ]


def _search_table(seen: Measured) -> list[str]:
    labels = seen.labels(SEARCHED)
    if not labels:
        return []
    rows = []
    for label in labels:
        made = seen.search(label)
        assert made is not None, label
        written = made["written"]
        costs_of = (made["cost"], made["cost_of_choice"])
        rows.append([label, made["closed_form"] or "searched", written.get("near_window", 0),
                     f"{written['attention_factor']:g}", f"{written.get('near_attention_factor', 1):g}",
                     *(f"{cost:.2f}" for cost in costs_of), f"{made['seconds']:.0f}"])  # fmt: skip
    head = ["search", "written", "W", "far attention", "near attention", "readings", "of the choice", "s"]
    return [
        "## Searches",
        "",
        "`ropewalk search --near-window search` on 24 search documents and 8 validation documents. Readings",
        "are of all search documents; those of the choice compare closed forms on the validation documents.",
        "Seconds are of a machine that did other work too.",
        "",
        *table(head, rows, left=2),
    ]


def _cost_table(seen: Measured, about: Mapping[str, Any]) -> list[str]:
    every = costs(seen.values)
    if not every:
        return []
    rows = []
    for one in every:
        for what in (PREFILL, DECODING):
            seconds = one.seconds[what]
            rows.append([what, one.length, f"{seconds[PLAIN]:.2f} s", f"{seconds[OURS]:.2f} s",
                         f"{one.ratios[what]:.3f}"])  # fmt: skip
        sizes = [f"{size / 2**20:.2f} MiB" for size in (one.key_bytes, one.key_bytes + one.extra_bytes)]
        rows.append([KEYS, one.length, *sizes, f"{one.ratios[KEYS]:.3f}"])
    return [
        "## Costs",
        "",
        f"A Llama of {about['layers']} layers with the sizes of {about['size']} and random weights, in",
        "float32, one row. With fewer layers its vocabulary is smaller by the same factor. Decoding is",
        f"{NUM_STEPS} tokens, one at a time, after that prefill. Processor seconds, the best of",
        f"{every[0].rounds} rounds in which both sides take turns. The keys of near-far include everything",
        "that a prefill leaves in memory and a plain one does not.",
        "",
        *table(["what", "tokens", "plain SDPA", "near-far", "ratio"], rows),
    ]


def _target_table(seen: Measured, about: Mapping[str, Any]) -> list[str]:
    return [
        "## Targets",
        "",
        "A target is met if the estimate meets it, undecided if it does not but its interval contains the",
        "limit, and otherwise missed. Of costs, the longest text counts.",
        "",
        *table(["target", "factors", "measured", ""], targets(seen, about), left=4),
    ]
