"""The factors of the search race beside each other on documents that no search has seen, paired by document.

    python benchmarks/race_paired.py

The race kept one perplexity for each set of factors. Its factors are in `results/race`, so what each makes of
each held-out document is measured here, and differences get an interval. Writes two files under `results/`.
"""

import datetime
import json
import platform
from collections.abc import Iterator
from functools import reduce
from importlib.metadata import version
from operator import add
from pathlib import Path

from evaluator import processor
from ropewalk.evaluate.intervals import paired_difference
from ropewalk.evaluate.nll import NllSum, score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import token_documents
from ropewalk.text.windows import truncate
from search_race import RESULTS, TODAY, model_of

LENGTH, NUM_DOCUMENTS = 2048, 10
Sums = dict[str, list[NllSum]]

# YaRN with its parameters tuned on the search documents, as the race found them.
TUNED = {
    "scale": "yarn:attention_factor=1.2,beta_fast=16,beta_slow=0.5",
    "today": "yarn:attention_factor=1.2,factor=6,beta_fast=8",
}
# Which searches are compared with what, by the labels of the race.
COMPARED = {
    "gradient": ("yarn", "mrrope-pro", "tuned yarn", "evolution", "evolution-attention"),
    "gradient-attention-1": ("evolution",),
}


def sums_of(model: str) -> Sums:
    """Nats and tokens of each held-out document, by scheme or by search and seed."""
    loaded = model_of(model, str(TODAY))
    documents = token_documents(
        "stdlib", loaded.tokenizer, length=LENGTH, num_documents=NUM_DOCUMENTS, split="held_out"
    )
    schemes = {"yarn": "yarn", "mrrope-pro": "mrrope-pro", "tuned yarn": TUNED[model]}
    factors = {label: scheme_factors(text, loaded.geometry, LENGTH) for label, text in schemes.items()}
    for label in {*COMPARED, *(other for others in COMPARED.values() for other in others)} - set(schemes):
        for folder in sorted((RESULTS / "race").glob(f"{model}-8x-{label}-s?")):
            factors[folder.name.removeprefix(f"{model}-8x-")] = RescaleFactors.load(folder / "factors.json")
    measured: Sums = {}
    for label, one in sorted(factors.items()):
        with loaded.using(one):
            windows = [truncate(document, LENGTH) for document in documents.documents]
            measured[label] = [score_windows(loaded.model, window) for window in windows]
    return measured


def rows(measured: Sums) -> Iterator[str]:
    """A row for each search, seed and rival: the difference, and whether it is decided."""
    for label, rivals in COMPARED.items():
        for ours in seeds_of(label, measured):
            for rival in (one for name in rivals for one in seeds_of(name, measured)):
                difference = paired_difference(measured[ours], measured[rival])
                yield f"| {ours} | {rival} | {difference} | {difference.decision} |"


def seeds_of(label: str, measured: Sums) -> list[str]:
    return [name for name in measured if name == label or name.rpartition("-s")[0] == label]


def page(model: str, measured: Sums) -> list[str]:
    names = {"scale": "The scale model", "today": "The second model"}
    found = ", ".join(f"{label} {reduce(add, sums).perplexity:.3f}" for label, sums in measured.items())
    head = ["| factors | against | difference in perplexity, 95% | |", "| --- | --- | --- | --- |"]
    return [
        f"## {names[model]}, 256 to {LENGTH} tokens",
        "",
        f"Perplexity: {found}.",
        "",
        *head,
        *rows(measured),
        "",
    ]


def main() -> None:
    measured = {model: sums_of(model) for model in ("scale", "today")}
    name = f"{datetime.date.today()}-race-paired"
    versions = ", ".join(f"{name} {version(name)}" for name in ("ropewalk", "torch", "transformers"))
    heading = [
        f"# The search race, paired by document, {datetime.date.today()}",
        "",
        f"`python benchmarks/race_paired.py`; {versions}, Python {platform.python_version()}, {processor()}.",
        f"{NUM_DOCUMENTS} held-out documents, each read in one pass. Differences are paired by document,",
        "with Student's interval (below 0: the first has the lower perplexity). `s` in a label is the seed.",
        "Initial schemes, knots and step sizes of the search were chosen in view of both models.",
        "",
    ]
    lines = heading + [line for model, sums in measured.items() for line in page(model, sums)]
    (RESULTS / f"{name}.md").write_text("\n".join(lines))
    document = {
        model: {
            label: [[one.nll_sum_nats, one.num_tokens] for one in sums] for label, sums in by_label.items()
        }
        for model, by_label in measured.items()
    }
    Path(RESULTS / f"{name}.json").write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
