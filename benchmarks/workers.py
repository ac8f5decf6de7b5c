"""What a second worker brings: a whole search by two workers of one thread, and by one.

    python benchmarks/workers.py

The strategy evolution on the bundled model, in turn with one worker and with two, several rounds. Both are
processes of Ray, so that they differ in their number only. The time of a search is that of its trials, as the
journal has it; the time to start the workers is stated beside it. The target is a ratio of 1.7 on two idle
cores. Factors and trials must be the same bit for bit.
"""

import argparse
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from evaluator import processor, publish
from ropewalk.models.model import Model, load_model
from ropewalk.search.journal import Journal
from ropewalk.search.plan import SearchPlan, plan_search
from ropewalk.search.settings import SearchSettings
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.text.tokens import DocumentSet, token_documents

RATIO_TARGET = 1.7
NUM_WORKERS = (1, 2)


def run(
    plan: SearchPlan, loaded: Model, documents: DocumentSet, validation: DocumentSet, num_workers: int
) -> dict[str, Any]:
    """One search."""
    # With an address even a single worker is a process of Ray; `local` starts Ray on this machine.
    workers = WorkerSettings(num_workers=num_workers, ray_address="local", threads_per_worker=1)
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        plan.open_workers(workers, loaded, documents, validation) as pool,
    ):
        ready = time.perf_counter()
        journal = Journal(Path(folder) / "journal.jsonl")
        found = plan.run(loaded, documents, validation_documents=validation, journal=journal, workers=pool)
        ended = time.perf_counter()
    return {
        "start_seconds": ready - started,
        "search_seconds": ended - ready,
        "factors": found.factors.to_json(),
        "values": [trial.value for trial in found.outcome.trials],
    }


def measure(length: int, num_documents: int, budget: int, rounds: int) -> dict[str, Any]:
    loaded = load_model("scale-model")
    documents = token_documents("stdlib", loaded.tokenizer, length=length, num_documents=2 * num_documents)
    search, validation = documents.part(0, num_documents), documents.part(num_documents, 2 * num_documents)
    settings = SearchSettings(strategy="evolution", objective="perplexity", budget=budget)
    plan = plan_search(loaded.description, length, settings)
    runs: dict[int, list[dict[str, Any]]] = {number: [] for number in NUM_WORKERS}
    for _ in range(rounds):
        for number in NUM_WORKERS:
            runs[number].append(run(plan, loaded, search, validation, number))
    every = [one for of_number in runs.values() for one in of_number]
    if any((one["factors"], one["values"]) != (every[0]["factors"], every[0]["values"]) for one in every):
        raise SystemExit("Two workers did not find the same factors as one.")
    seconds = {number: [one["search_seconds"] for one in of] for number, of in runs.items()}
    starts = {number: [one["start_seconds"] for one in of] for number, of in runs.items()}
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "length": length,
        "num_documents": num_documents,
        "budget": budget,
        "search_seconds": seconds,
        "start_seconds": starts,
        "ratio": statistics.median(seconds[1]) / statistics.median(seconds[2]),
    }


def table(result: dict[str, Any]) -> str:
    lines = ["| workers of one thread | search, s | start, s |", "| ---: | ---: | ---: |"]
    for number, seconds in result["search_seconds"].items():
        start = statistics.median(result["start_seconds"][number])
        lines.append(f"| {number} | {statistics.median(seconds):.1f} | {start:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--num-documents", type=int, default=4)
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="workers", help="of the result files")
    args = parser.parse_args()
    result = measure(args.length, args.num_documents, args.budget, args.rounds)
    about = (
        f"`python benchmarks/workers.py` on {result['processor']}: evolution, {args.budget} evaluations of "
        f"{args.num_documents} documents of {args.length} tokens, medians of {args.rounds} rounds. The "
        f"factors are the same bit for bit. Ratio {result['ratio']:.2f}, target {RATIO_TARGET}."
    )
    page = f"# A second worker, {result['date']}\n\n{about}\n\n{table(result)}\n"
    publish(args.name, result, page, page)


if __name__ == "__main__":
    main()
