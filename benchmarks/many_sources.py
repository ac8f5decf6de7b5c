"""Does a default search ever lose to a closed form? 20 searches: two models, three sources, 2x to 16x.

    apt-get download manpages=6.03-2 manpages-dev=6.03-2    # Debian 12; else from snapshot.debian.org
    for file in manpages*.deb; do dpkg-deb -x $file PAGES; done
    python benchmarks/many_sources.py texts --pages PAGES --out FOLDER
    OMP_NUM_THREADS=1 python benchmarks/many_sources.py run --out FOLDER --only scale-model &
    OMP_NUM_THREADS=1 python benchmarks/many_sources.py run --out FOLDER --only today-model
    python benchmarks/many_sources.py report --out FOLDER

The sources are the library (searches read `stdlib:search`, measurements `stdlib:held-out`), source of other
packages, and English manual pages, rendered by man-db and groff. The code is in `sources/`.

Each run draws its documents with a seed of its own: 5 for the search, 3 for validation, and 20 others. On
these 20 it measures the perplexity of the factors that the search returned and of every closed form. Of the
returned factors and of closed forms that are near the best in perplexity, it also measures how many of 100
facts are found, 4 per text.

`run` saves each measurement as it ends; the same command continues. Two processes may run with one `--out` if
their `--only` name two models. `report` writes `results/DATE-many-sources.md` and `.json`.
"""

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from evaluator import publish
from measurements import Measurements, default_folder, surroundings
from ropewalk.models.model import load_model
from sources import runs
from sources.outcomes import Outcome, Result, outcomes_of
from sources.runs import MODELS, RETURNED, RunBench, selected_runs
from sources.texts import read_manifest, write_texts

NUM_UNSEEN, NUM_QUESTIONS = 20, 100
RESULTS: tuple[Result, ...] = ("loses", "wins", "undecided")
HEAD = (
    "model", "source", "ratio", "returned", "evaluations", "perplexity", "best closed form", "difference",
    "result", "facts found", "best closed form by perplexity", "best closed form by facts",
)  # fmt: skip


def page(about: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The table of all runs."""
    lines = [
        f"# Default searches against closed forms on three sources, {date.today()}",
        "",
        *conditions(about),
        "",
        "| " + " | ".join(HEAD) + " |",
        "| " + " | ".join("---" for _ in HEAD) + " |",
        *map(row, outcomes),
        "",
        *last_lines(outcomes),
    ]
    return "\n".join(lines) + "\n"


def conditions(about: Mapping[str, Any]) -> list[str]:
    """What was run, on which texts, and what the columns mean."""
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    weights = ", ".join(f"{name} {sha256[:12]}" for name, sha256 in about["weights"].items())
    corpora = [
        f"- {name}: {one['files']} files (SHA-256 {one['sha256'][:12]}) of "
        + ", ".join(f"{package} {version}" for package, version in one["versions"].items())
        + "."
        for name, one in about["texts"].items()
    ]
    return [
        f"`python benchmarks/many_sources.py`; {versions}, {about['processor']}, {about['threads']} thread.",
        f"Weights (SHA-256): {weights}.",
        "",
        "- Each run searches with default settings, on as many documents as `ropewalk search` takes, and is",
        f"  measured on {about['documents']} others of the same source. Its seed draws them.",
        "- library: searches read `stdlib:search`, measurements `stdlib:held-out`.",
        *corpora,
        f"- Compared are the closed forms whose perplexity is at most {runs.NEAR:g} times that of the best",
        "  one on the measured documents; their number is in brackets. The choice of the best one on these",
        "  documents favours it.",
        "- Differences in perplexity are paired by document (Student's interval, 95%; below 0% the returned",
        "  factors are better). A run loses if the interval of any comparison, corrected for their number",
        "  (Bonferroni), is above 0. It wins if the intervals of all, not corrected, are below 0.",
        f"- Facts: {about['questions']} questions, {runs.NUM_FACTS} per text, known wordings. Differences",
        "  are paired by question and not corrected. The choice of the best closed form by facts favours it.",
    ]


def row(outcome: Outcome) -> str:
    run, search, best = outcome.run, outcome.search, outcome.best
    facts = [
        f"{name} {outcome.num_found(name)}: {outcome.found_against(name)}"
        for name in (best, outcome.best_by_facts)
    ]
    cells = [
        run.model, run.source, f"{run.ratio}x", search["closed_form"] or "searched",
        f"{search['cost']:.1f} + {search['cost_of_choice']:.1f}", f"{outcome.perplexity:.3f}",
        f"{best} {outcome.near[best]:.3f}", str(outcome.differences[best]),
        f"{outcome.result(corrected=True)} ({len(outcome.near)})", str(outcome.num_found(RETURNED)), *facts,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def last_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """How many runs lose, win, and are undecided."""
    results = {
        "perplexity, corrected": [one.result(corrected=True) for one in outcomes],
        "perplexity, not corrected": [one.result(corrected=False) for one in outcomes],
        "facts, against the best closed form by perplexity": [one.facts_result(one.best) for one in outcomes],
        "facts, against the best closed form by facts": [
            one.facts_result(one.best_by_facts) for one in outcomes
        ],
    }
    lines = [f"Runs: {len(outcomes)} of {len(selected_runs())}.", ""]
    for what, each in results.items():
        counts = Counter(each)
        lines.append(f"- {what}: " + ", ".join(f"{counts[result]} {result}" for result in RESULTS))
    return lines


# ---------------------------------------------------------------- the commands


def measure(args: argparse.Namespace) -> None:
    """Every run whose name contains `--only`, model by model."""
    texts = read_manifest(args.out / "texts")
    chosen = [run for run in selected_runs() if args.only in run.label]
    if not chosen:
        names = "; ".join(run.label for run in selected_runs())
        raise SystemExit(f"No run's name contains {args.only!r}: give a part of one of {names}.")
    for name, of_model in itertools.groupby(chosen, key=lambda run: run.model):
        model = load_model(MODELS[name])
        about = {
            **surroundings(("ropewalk", "torch", "transformers"), runs.__file__),
            "texts": texts,
            "documents": args.documents,
            "questions": args.questions,
            "weights": model.weights_sha256,
        }
        kept = Measurements(args.out / name, about)
        for run in of_model:
            RunBench(
                run, model, kept, args.out / "texts", num_unseen=args.documents, num_questions=args.questions
            ).measure()


def report(folder: Path) -> None:
    """The page of what is measured so far, of both models."""
    files = {name: folder / name / "measurements.json" for name in MODELS}
    read = {name: json.loads(file.read_bytes()) for name, file in files.items() if file.exists()}
    if not read:
        raise SystemExit(f"{folder} has no measurements: run `many_sources.py run` first.")
    weights = {name: one["about"].pop("weights") for name, one in read.items()}
    about, *others = (one["about"] for one in read.values())
    if any(other != about for other in others):
        raise SystemExit(f"The models in {folder} were measured with other code or texts: repeat one.")
    measured = {name: value for one in read.values() for name, value in one["measured"].items()}
    outcomes, about = outcomes_of(measured), {**about, "weights": weights}
    document = {
        "date": date.today().isoformat(),
        "about": about,
        "outcomes": {one.run.label: one.as_json() for one in outcomes},
        "measured": measured,
    }
    publish("many-sources", document, page(about, outcomes), "\n".join(last_lines(outcomes)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["texts", "run", "report"])
    parser.add_argument("--out", type=Path, default=default_folder("many-sources"))
    parser.add_argument("--pages", type=Path, help="where the packages of manual pages were extracted")
    parser.add_argument("--only", default="", help="runs whose name has this, e.g. 'today-model, pages, 2x'")
    parser.add_argument("--documents", type=int, default=NUM_UNSEEN, help="unseen documents of a run")
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS)
    args = parser.parse_args()
    if args.what == "texts":
        if args.pages is None:
            parser.error("texts needs --pages")
        write_texts(args.out / "texts", args.pages)
    elif args.what == "run":
        measure(args)
    else:
        report(args.out)


if __name__ == "__main__":
    main()
