"""How near a score from kept keys is to an exact one, and how much faster.

    python benchmarks/kept_keys.py                       # the bundled model, 2048 and 8192 tokens
    python benchmarks/kept_keys.py --lengths 2048 --num-documents 3 --kept-under mrrope-pro

The keys of the search documents are kept under one scheme. Each candidate is then scored from them, and read
exactly, on the same tokens and on all tokens: closed-form schemes, random splines around the scheme, and
candidates of the landed races (search journals), spread over their values. Prints a table and JSON.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ropewalk.evaluate.gradient import reading_gradient
from ropewalk.evaluate.kept_keys import keep, kept_gradient, score_kept
from ropewalk.evaluate.nll import score_reading
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.journal import read_trials
from ropewalk.search.named_spaces import make_space
from ropewalk.search.space import SearchSpace, attention_choices
from ropewalk.text.readings import SCORED_SHARE, Reading, choose_targets
from ropewalk.text.tokens import token_documents

RACE = Path(__file__).parent / "results" / "race"
SCHEMES = (
    "yarn", "yarn:beta_fast=16,beta_slow=0.5", "yarn:beta_fast=8", "yarn:attention_factor=1.1",
    "mrrope-pro", "ntk", "pi", "yarn:factor=6",
)  # fmt: skip
NUM_RANDOM, NUM_JOURNALLED, SPREAD = 8, 8, 0.15  # spread in ln lambda at the knots
CHOSEN, REST = "chosen", "rest"


def candidates(model: Model, length: int, scheme: str) -> list[RescaleFactors]:
    """Closed forms, random splines around `scheme`, and journalled candidates."""
    found = [scheme_factors(name, model.geometry, length) for name in SCHEMES]
    full = SearchSpace(
        geometry=model.geometry,
        target_length=length,
        start_tokens=(0, 1, 4, 16),
        attention_factors=attention_choices("search", model.geometry, length),
    )
    space = make_space("spline", full)
    around = space.coordinates(space.snap(scheme_factors(scheme, model.geometry, length)))
    generator = np.random.default_rng(0)
    for index in range(NUM_RANDOM):
        noise = generator.normal(size=around.shape) * np.r_[[SPREAD] * (len(around) - 1), 0.03]
        moved = space.nearest(around + noise, full.start_tokens[index % len(full.start_tokens)])
        found.append(space.to_factors(moved))
    return found + journalled(model, length)


def journalled(model: Model, length: int) -> list[RescaleFactors]:
    """Candidates of the landed races at 8x, spread over the ranks of their values."""
    trials = [
        trial for path in sorted(RACE.glob("scale-8x-*")) for trial in read_trials(path / "journal.jsonl")
    ]
    known = sorted((trial for trial in trials if trial.value is not None), key=lambda trial: trial.rank)
    ranks = np.linspace(0, 0.8 * (len(known) - 1), NUM_JOURNALLED).astype(int)
    return [
        RescaleFactors.single(
            geometry=model.geometry, target_length=length, **known[rank].candidate.as_dict()
        )
        for rank in ranks
    ]


def with_two_terms(ids: torch.Tensor, share: float) -> tuple[Reading, Reading]:
    """(all tokens as two terms: those that kept keys score and the rest; the first term alone)."""
    everything = torch.arange(1, len(ids))
    chosen = choose_targets(Reading(ids=ids, scored={CHOSEN: everything}), share).scored[CHOSEN]
    rest = everything[~torch.isin(everything, chosen)]
    return Reading(ids=ids, scored={CHOSEN: chosen, REST: rest}), Reading(ids=ids, scored={CHOSEN: chosen})


def measure(model: Model, length: int, args: argparse.Namespace) -> dict[str, Any]:
    """All candidates at one length."""
    documents = token_documents(
        "stdlib", model.tokenizer, length=length, num_documents=args.num_documents
    ).documents
    readings = [with_two_terms(document.ids[:length], args.share) for document in documents]
    kept_under = scheme_factors(args.kept_under, model.geometry, length)
    start = time.perf_counter()
    kept = [keep(model, full.ids, kept_under, dtype=args.dtype) for full, _ in readings]
    keep_seconds = time.perf_counter() - start
    rows, seconds = [], np.zeros(2)
    tried = candidates(model, length, args.kept_under)[:: args.stride]
    for factors in tried:
        start = time.perf_counter()
        cheap = [score_kept(model, of, few, factors) for of, (_, few) in zip(kept, readings, strict=True)]
        middle = time.perf_counter()
        with model.using(factors):
            exact = [score_reading(model.model, full) for full, _ in readings]
        seconds += middle - start, time.perf_counter() - middle
        rows.append(
            [
                mean(cheap, (CHOSEN,)),
                mean(exact, (CHOSEN,)),
                mean(exact, (CHOSEN, REST)),
            ]
        )
    found, exact_chosen, exact_all = np.array(rows).T
    return {
        "length": length,
        "num_documents": len(documents),
        "num_candidates": len(rows),
        "kept_under": args.kept_under,
        "scored_tokens": len(readings[0][1].targets),
        "query_tokens": len(kept[0].queries(readings[0][1])),
        "kept_mib_per_document": kept[0].num_bytes / 2**20,
        "rank_same_tokens": rank(found, exact_chosen),
        "rank_same_tokens_best_half": rank_of_best(found, exact_chosen),
        "rank_all_tokens": rank(found, exact_all),
        "rank_all_tokens_best_half": rank_of_best(found, exact_all),
        "rank_exact_same_against_all": rank(exact_chosen, exact_all),
        "largest_error_nats": float(abs(found - exact_chosen).max()),
        "largest_error_nats_best_half": float(abs(found - exact_chosen)[best_half(exact_chosen)].max()),
        "median_error_nats": float(np.median(abs(found - exact_chosen))),
        "range_nats": float(np.ptp(exact_chosen)),
        "keep_seconds": keep_seconds,
        "kept_seconds": float(seconds[0]) / len(rows),
        "exact_seconds": float(seconds[1]) / len(rows),
        "speedup": float(seconds[1] / seconds[0]),
        **gradient_seconds(model, kept[0], *readings[0], tried[1]),
    }


def gradient_seconds(
    model: Model, kept: Any, full: Reading, few: Reading, factors: RescaleFactors
) -> dict[str, float]:
    """Seconds of one gradient from kept keys and of an exact one, and how alike the two are."""
    start = time.perf_counter()
    cheap = kept_gradient(model, kept, few, factors, {CHOSEN: 1.0})
    middle = time.perf_counter()
    same = reading_gradient(model, full, factors, {CHOSEN: 1.0, REST: 0.0})
    end = time.perf_counter()
    product = cheap.by_log_factor @ same.by_log_factor
    norms = np.linalg.norm(cheap.by_log_factor) * np.linalg.norm(same.by_log_factor)
    return {
        "kept_gradient_seconds": middle - start,
        "exact_gradient_seconds": end - middle,
        "gradient_cosine_same_tokens": float(product / norms),
    }


def mean(documents: Sequence[Any], terms: tuple[str, ...]) -> float:
    """Nats per token of some terms of all documents."""
    sums = [document[term] for document in documents for term in terms]
    return float(sum(nll.nll_sum_nats for nll in sums) / sum(nll.num_tokens for nll in sums))


def best_half(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return values <= np.median(values)


def rank(found: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    return float(spearmanr(found, exact).statistic)


def rank_of_best(found: NDArray[np.float64], exact: NDArray[np.float64]) -> float:
    return rank(found[best_half(exact)], exact[best_half(exact)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="scale-model")
    parser.add_argument("--lengths", default="2048,8192")
    parser.add_argument("--num-documents", type=int, default=3)
    parser.add_argument("--kept-under", default="yarn")
    parser.add_argument("--share", type=float, default=SCORED_SHARE)
    parser.add_argument("--stride", type=int, default=1, help="measure every N-th candidate")
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name), help="in which keys are kept")
    args = parser.parse_args()
    model = load_model(args.model)
    results = [measure(model, int(length), args) for length in args.lengths.split(",")]
    for key in results[0]:
        values = [result[key] for result in results]
        print(f"{key:32}", *(f"{v:>12.4f}" if isinstance(v, float) else f"{v:>12}" for v in values))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
