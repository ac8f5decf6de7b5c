"""What a trial of a search costs: its documents read by us, by plain transformers, and with the gradient.

    python benchmarks/trial.py

Five documents of 2048 tokens on the bundled model, everything in turn within one process, the best of several
rounds. The share is that of `evaluator.py`: operations a second, over the rate of a float32 product of 2048 x
2048 measured in the same process. `before` is how a search evaluated until 2026-11-22: the rotary learnt anew
for every candidate; that it would then have been learnt for every document is `before, by document`.
"""

import argparse
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from evaluator import matrix_rate, num_operations, processor, publish, timed
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.named_spaces import make_space
from ropewalk.search.objective import Objective
from ropewalk.search.objectives import ObjectiveTask, perplexity
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.text.tokens import DocumentSet, token_documents

TARGET, NUM_DOCUMENTS = 2048, 5


def ways(loaded: Model, documents: DocumentSet) -> dict[str, Callable[[], Any]]:
    """Each reads all documents once, under YaRN's factors."""
    full = SearchSpace(geometry=loaded.geometry, target_length=TARGET)
    space = make_space("spline", full)
    factors = scheme_factors("yarn", loaded.geometry, TARGET)
    candidate: Candidate = space.snap(factors)
    task = ObjectiveTask(
        documents=documents,
        tokenizer=loaded.tokenizer,
        original_length=loaded.geometry.original_length,
        target_length=TARGET,
        seed=0,
    )
    objective = Objective(loaded, perplexity(task), space)
    every = range(NUM_DOCUMENTS)

    def value() -> None:
        list(objective.measure(candidate, every))

    def gradient() -> None:
        list(objective.measure(candidate, every, gradient=True))

    def installed_once(run: Callable[[], None]) -> Callable[[], None]:
        def inside() -> None:
            with loaded.using(objective.factors(candidate)):
                run()

        return inside

    def plain() -> None:
        with torch.no_grad():
            for document in documents.documents:
                ids = document.ids.unsqueeze(0)
                loaded.model(ids, labels=ids, use_cache=False)

    return {
        "plain transformers": plain,
        "a value": value,
        "a value, before": installed_once(value),
        "a value, before, by document": value,
        "a gradient": gradient,
    }


def measure(rounds: int) -> dict[str, Any]:
    loaded = load_model("scale-model")
    documents = token_documents("stdlib", loaded.tokenizer, length=TARGET, num_documents=NUM_DOCUMENTS)
    runs = ways(loaded, documents)
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    rates = [matrix_rate()]
    throughout = scheme_factors("ntk", loaded.geometry, TARGET)
    for _ in range(rounds + 1):  # the first warms up
        for label, run in runs.items():
            if "before" in label or label == "plain transformers":
                seconds[label].append(timed(run))
            else:
                with loaded.using(throughout):
                    seconds[label].append(timed(run))
    rates.append(matrix_rate())
    operations = NUM_DOCUMENTS * num_operations(loaded.model, TARGET)
    best = {label: min(values[1:]) for label, values in seconds.items()}
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "preloaded": Path(os.environ.get("LD_PRELOAD", "")).name,
        "seconds": seconds,
        "matrix_rate": max(rates),
        "share": {label: operations / value / max(rates) for label, value in best.items()},
        "in_values": {label: value / best["a value"] for label, value in best.items()},
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| reading 5 documents of 2048 tokens | best seconds | in values | share |",
        "| --- | ---: | ---: | ---: |",
    ]
    for label, seconds in result["seconds"].items():
        share = f"{result['share'][label]:.2f}" if label != "a gradient" else "-"
        lines.append(f"| {label} | {min(seconds[1:]):.3f} | {result['in_values'][label]:.2f} | {share} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="trial", help="of the result files")
    args = parser.parse_args()
    result = measure(args.rounds)
    rate = result["matrix_rate"] / 1e9
    about = (
        f"`python benchmarks/trial.py` on {result['processor']}, {result['threads']} thread(s)"
        f"{', ' + result['preloaded'] + ' preloaded' if result['preloaded'] else ''}; {rate:.0f} Gflop/s."
    )
    page = f"# A trial, {result['date']}\n\n{about}\n\n{table(result)}\n"
    publish(args.name, result, page, page)


if __name__ == "__main__":
    main()
