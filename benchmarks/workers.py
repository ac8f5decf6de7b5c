"""What a second worker brings: a search by two workers of one thread, and by one.

    OMP_NUM_THREADS=1 python benchmarks/workers.py

The strategy evolution on the bundled model, exact, without n-hat, on 3 documents of 4096 tokens: with an odd
number, two workers are busy only if they begin with later candidates. Both sides are processes of Ray, so
that they differ in their number only. They start once; then each searches in turn, for some rounds. The
target is a ratio of 1.7 between the medians, on two idle cores. Factors and trials must be the same bit for
bit.

It takes under 3 minutes, of which half a minute is the start.
"""

import argparse
import logging
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from importlib import import_module
from typing import Any

from evaluator import publish
from measurements import surroundings
from ropewalk.models.model import Model, load_model
from ropewalk.search.plan import SearchPlan, plan_search
from ropewalk.search.ray_workers import ENVIRONMENT, OBJECT_STORE_BYTES
from ropewalk.search.settings import SearchSettings
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.search.workers import WorkerPool
from ropewalk.text.tokens import DocumentSet, token_documents

RATIO_TARGET = 1.7
NUM_WORKERS = (1, 2)
PACKAGES = ("ray", "torch", "transformers")


def searched(plan: SearchPlan, model: Model, documents: DocumentSet, workers: WorkerPool) -> dict[str, Any]:
    """One search; its seconds do not count in a comparison of results."""
    started = time.perf_counter()
    found = plan.run(model, documents, workers=workers)
    seconds = time.perf_counter() - started
    trials = [replace(trial, seconds=0.0).as_dict() for trial in found.outcome.trials]
    return {"seconds": seconds, "factors": found.factors.to_json(), "trials": trials}


def start_ray() -> None:
    """Cores for both sides at once, though only one of them works at any time."""
    os.environ.update(ENVIRONMENT)
    import_module("ray").init(
        address="local", num_cpus=sum(NUM_WORKERS), include_dashboard=False, log_to_driver=False,
        object_store_memory=OBJECT_STORE_BYTES, logging_level=logging.ERROR,
    )  # fmt: skip


def measure(length: int, num_documents: int, budget: int, rounds: int) -> dict[str, Any]:
    """Seconds of each search by the number of workers."""
    model = load_model("scale-model")
    documents = token_documents("stdlib", model.tokenizer, length=length, num_documents=num_documents)
    settings = SearchSettings(
        strategy="evolution", objective="perplexity", exact=True, start_tokens="none", budget=budget, seed=0
    )
    plan, first = (
        plan_search(model.description, length, one, closed_forms=False)
        for one in (settings, settings.model_copy(update={"budget": 1}))
    )
    start_ray()
    started = time.perf_counter()
    seconds: dict[int, list[float]] = {number: [] for number in NUM_WORKERS}
    results = []
    with ExitStack() as stack:
        pools = {}
        for number in NUM_WORKERS:
            # With an address even a single worker is a process of Ray.
            workers = WorkerSettings(num_workers=number, ray_address="local", threads_per_worker=1)
            pool = stack.enter_context(plan.open_workers(workers, model, documents))
            assert pool is not None, "there are workers"
            pools[number] = pool
        for pool in pools.values():
            searched(first, model, documents, pool)  # the first reading is slower
        start_seconds = time.perf_counter() - started
        for turn in range(rounds):
            for number in NUM_WORKERS[:: 1 if turn % 2 == 0 else -1]:
                result = searched(plan, model, documents, pools[number])
                seconds[number].append(result.pop("seconds"))
                results.append(result)
    if any(result != results[0] for result in results):
        raise SystemExit("Two workers did not find the same factors and trials as one.")
    medians = {number: statistics.median(of_number) for number, of_number in seconds.items()}
    return {
        "date": date.today().isoformat(),
        **surroundings(PACKAGES, __file__),
        "weights_sha256": model.weights_sha256,
        "seed": settings.seed,
        "length": length,
        "num_documents": num_documents,
        "budget": budget,
        "start_seconds": start_seconds,
        "search_seconds": seconds,
        "ratio": medians[1] / medians[2],
    }


def page(result: dict[str, Any]) -> str:
    """The result as a Markdown page."""
    rounds = len(result["search_seconds"][1])
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = ["| workers of one thread | median, s | each round, s |", "| ---: | ---: | --- |"]
    for number, seconds in result["search_seconds"].items():
        each = ", ".join(f"{one:.1f}" for one in seconds)
        lines.append(f"| {number} | {statistics.median(seconds):.1f} | {each} |")
    return (
        f"# A second worker, {result['date']}\n\n"
        f"`OMP_NUM_THREADS=1 python benchmarks/workers.py` on {result['processor']}, {versions}: exact "
        f"evolution on the bundled model, {result['budget']} candidates, {result['num_documents']} documents "
        f"of {result['length']} tokens, seed {result['seed']}, {rounds} rounds in turn. Factors and trials "
        f"are the same bit for bit. Ratio of the medians {result['ratio']:.2f}, target {RATIO_TARGET}. "
        f"Starting all three workers took {result['start_seconds']:.0f} s.\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--num-documents", type=int, default=3)
    parser.add_argument("--budget", type=int, default=8, help="candidates of each search")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="workers", help="of the result files")
    args = parser.parse_args()
    result = measure(args.length, args.num_documents, args.budget, args.rounds)
    text = page(result)
    publish(args.name, result, text, text)


if __name__ == "__main__":
    main()
