"""LongRoPE's evolution at the paper's full budget, once: 1344 candidates at 8x on the scale model.

    python benchmarks/paper_budget.py --run FOLDER

Searches 5 documents of the standard library's `search` part with attention factor 1, as the paper does, and
measures every closed form beside it on those documents and on 10 of the `held-out` part. Killed, it goes on
in the same folder. Some twenty minutes on two cores.
"""

import argparse
import json
import math
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from ropewalk.cli.progress import show_progress
from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import EvalRecord
from ropewalk.models.model import Model, load_model
from ropewalk.report.comparison import (
    UNTOUCHED,
    closed_forms,
    constant,
    measure_sliding_window,
    without_factors,
)
from ropewalk.search.outcome import SearchOutcome
from ropewalk.search.result import SearchResult
from ropewalk.search.run_folder import RunFolder
from ropewalk.search.search import search_factors
from ropewalk.text.tokens import DocumentSet, token_documents

RESULTS = Path(__file__).parent / "results"
TARGET = 2048
NUM_DOCUMENTS: dict[Literal["search", "held_out"], int] = {"search": 5, "held_out": 10}
MILESTONES = (64, 128, 256, 512, 1024, 1344)


def search(loaded: Model, documents: DocumentSet, folder: RunFolder, seed: int) -> SearchResult:
    with show_progress() as progress:
        found = search_factors(
            loaded,
            documents,
            target_length=TARGET,
            strategy="evolution",
            budget="paper",
            seed=seed,
            journal=folder.journal,
            on_trial=progress.on_trial,
            closed_forms=False,
        )
    folder.write_search(found)
    return found


def measure(loaded: Model, documents: DocumentSet, found: SearchResult) -> list[EvalRecord]:
    factors = {
        UNTOUCHED: without_factors,
        **closed_forms(loaded.geometry, TARGET),
        "evolution": constant(found.factors),
    }
    plain = found.factors_without_start_tokens
    if plain is not None and found.factors.num_start_tokens:
        factors["evolution, n-hat 0"] = constant(plain)
    records = measure_perplexity(loaded, documents, [TARGET], factors=factors)
    return records + measure_sliding_window(loaded, documents, [TARGET])


def best_after(outcome: SearchOutcome, num_trials: int) -> float:
    """The lowest perplexity among the first trials."""
    return min((trial.value for trial in outcome.trials[:num_trials] if trial.value), default=math.nan)


def markdown(found: SearchResult, records: dict[str, list[EvalRecord]], environment: dict[str, str]) -> str:
    lines = [f"# The paper's budget on the scale model, {environment['date']}", ""]
    lines += [f"`{environment['command']}`; {environment['versions']}; {environment['machine']}.", ""]
    lines += [
        "Perplexity at 2048 tokens, one pass over each document; 95% interval over documents.",
        "",
    ]
    splits = list(records)
    head = " | ".join(f"{split.replace('_', '-')} ({records[split][0].n} documents)" for split in splits)
    lines += [f"| factors | {head} |", "| --- |" + " ---: |" * len(splits)]
    for rows in zip(*records.values(), strict=True):
        cells = " | ".join(f"{r.value:.3f} ({r.low:.2f}-{r.high:.2f})" for r in rows)
        lines.append(f"| {rows[0].factors} | {cells} |")
    lines += ["", "Best on the search documents after so many candidates:", ""]
    lines += [
        "| candidates | " + " | ".join(map(str, MILESTONES)) + " |",
        "| --- |" + " ---: |" * len(MILESTONES),
    ]
    values = " | ".join(f"{best_after(found.outcome, n):.3f}" for n in MILESTONES)
    lines += [f"| perplexity | {values} |", ""]
    nats = found.nats_without_start_tokens
    lines.append(
        f"n-hat is {found.factors.num_start_tokens}; leaving it at 0 costs "
        f"{'an unknown amount' if nats is None else f'{nats:.4f} nats a token'} on the search documents. "
        f"The evaluations took {found.outcome.seconds / 60:.1f} minutes; {found.outcome.num_failed} failed."
    )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run's folder, begun or gone on with")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    loaded = load_model("scale-model")
    sources = {
        split: token_documents("stdlib", loaded.tokenizer, length=TARGET, num_documents=n, split=split)
        for split, n in NUM_DOCUMENTS.items()
    }
    with RunFolder.resume(given.run) as folder:
        found = search(loaded, sources["search"], folder, given.seed)
    records: dict[str, list[EvalRecord]] = {
        split: measure(loaded, documents, found) for split, documents in sources.items()
    }
    environment = {
        "date": date.today().isoformat(),
        "command": f"python benchmarks/paper_budget.py --run FOLDER --seed {given.seed}",
        "versions": ", ".join(f"{name} {version(name)}" for name in ("ropewalk", "torch", "transformers")),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} thread(s), "
        f"Python {platform.python_version()}",
    }
    stem = RESULTS / f"{environment['date']}-paper-budget"
    RESULTS.mkdir(exist_ok=True)
    raw = {
        "environment": environment,
        "search": found.as_dict(),
        "factors": json.loads(found.factors.to_json()),
        "best_after": {str(n): best_after(found.outcome, n) for n in MILESTONES},
        "records": {split: [record.as_json() for record in rows] for split, rows in records.items()},
    }
    stem.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown(found, records, environment), encoding="utf-8")
    stem.with_suffix(".journal.jsonl").write_bytes(folder.journal_path.read_bytes())
    print(stem.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
