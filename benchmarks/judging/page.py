"""The page of what `kept_keys.py` measured."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judging.agreement import DISTANCES, HEAD, START_TOKENS, Agreement, in_bins
from judging.arithmetic import (
    MOST_READINGS,
    NUM_CANDIDATES,
    TOKENS_PER_FACT,
    cost,
    most_tokens,
    share_of_operations,
    share_of_tokens,
    shortest,
)
from judging.judge import ALL, SAME, log_values
from ropewalk.search.objectives import MOST_FACTS
from ropewalk.search.objectives import TOKENS_PER_FACT as TOKENS_OF_A_FACT

FULL_PRECISION = "float32"
YARN, PUBLISHED, BEST = "YaRN in the space", "YaRN as published", "the best candidate"
TARGET_OF_ALL, TARGET_OF_BEST = 0.97, 0.9
LENGTHS = (2048, 8192, 32768, 131072, 524288)
MOST_SCORED = (512, 256, 128, 64)
FIXED = {1.0: "the first reading alone", 3.0: "with a reading that renews keys and an exact one at the end"}
Result = dict[str, Any]


def page_of(result: Result) -> str:
    """The parts that were measured, in their order."""
    sections: dict[str, Callable[[list[Result]], Iterator[str]]] = {
        "journals": journals_section,
        "lengths": partial(mutated_section, "Mutations of YaRN on the bundled model"),
        "deep": partial(mutated_section, "A deep model"),
        "cost": cost_section,
    }
    lines = [f"# Candidates judged from kept keys, {result['date']}", "", *_about(result)]
    for part in result["parts"]:
        lines += ["", *(arithmetic_section() if part == "arithmetic" else sections[part](result[part]))]
    return "\n".join(lines) + "\n"


def _about(result: Result) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    yield (
        f"`python benchmarks/kept_keys.py`; {versions}, Python {result['python']}, {result['processor']}, "
        f"{result['threads']} thread(s), seed {result['seed']}."
    )
    yield (
        "Values are ln value in nats. Kept keys score an eighth of a text's tokens, at most 512, and all "
        "answers; *all tokens* and *same tokens* compare them with exact values of the whole documents and "
        "of those tokens. *Rank* is Spearman's, with a 95% interval by candidates (Bonett and Wright); *rank "
        "of the exact two* compares the exact values of the few tokens with those of all: no judgement by "
        "them can be better. *Lost*: how far the candidate that is judged best is above the best one."
    )


def journals_section(journals: list[Result]) -> Iterator[str]:
    """A line per journal, kind of keys, and set of candidates."""
    yield "## Landed evolutions"
    yield ""
    yield (
        "Objective perplexity, the documents of the journals, and the weights that they were measured with. "
        "*All* are drawn evenly by rank. *Reproduced* is the largest difference of an exact value from the "
        f"journalled one. Targets: {TARGET_OF_ALL} over all, {TARGET_OF_BEST} among the best 64."
    )
    yield ""
    yield from _head(["journal", "documents", "candidates", "weights", "reproduced, nats"])
    for one in journals:
        gaps = abs(log_values(one["rows"], ALL, one["weights"]) - np.log(one["journalled"]))
        length = f"{one['num_documents']} of {one['target_length']} tokens"
        cells = [one["name"], length, str(one["num_candidates"]), one["weights_sha256"][:12]]
        yield _row([*cells, f"{gaps.max():.1e}"])
    yield ""
    yield from _head(["journal", "keys kept under", "which", *HEAD])
    for one in journals:
        for label in one["distances"]:
            for which, chosen in _sets(one).items():
                yield _row([one["name"], label, which, *_agreement(one, label, chosen).cells()])
    yield ""
    yield from _distance_tables(journals)


def mutated_section(title: str, results: list[Result]) -> Iterator[str]:
    """A line per result, type of keys, and set of candidates; then one per term."""
    yield f"## {title}"
    yield ""
    yield (
        "Objective facts. Candidates are YaRN and 1, 2, 4 or 8 mutations of it by the evolution, with a free "
        "attention factor and start tokens; keys are kept under YaRN."
    )
    yield ""
    yield from _head(
        ["model and length", "layers", "documents", "weights", "tokens that run for a candidate"]
    )
    for one in results:
        cells = [one["name"], str(one["num_layers"]), str(one["num_documents"]), one["weights_sha256"][:12]]
        yield _row([*cells, f"{one['share_of_queries']:.1%}"])
    yield ""
    yield from _head(["model and length", "keys in", "which", *HEAD])
    for one in results:
        everything = log_values(one["rows"], ALL, one["weights"])
        halves = {"all": slice(None), "best half": everything <= np.median(everything)}
        for label in one["distances"]:
            for which, chosen in halves.items():
                yield _row([one["name"], label, which, *_agreement(one, label, chosen).cells()])
    yield ""
    yield from _precision_table(results)
    yield "Errors of each term, in nats per token of it:"
    yield ""
    yield from _head(["model and length", "keys in", "term", "mean error", "largest error", "range"])
    for one in results:
        for label in one["distances"]:
            for index, term in enumerate(one["terms"]):
                found, exact = (_term(one, how, index) for how in (label, SAME))
                errors = abs(found - exact)
                nats = [errors.mean(), errors.max(), np.ptp(exact)]
                yield _row([one["name"], label, term, *(f"{value:.4f}" for value in nats)])
    yield ""
    yield from _distance_tables(results)


def _precision_table(results: list[Result]) -> Iterator[str]:
    """What keys in half precision change, where some were kept so."""
    halves = [(one, label) for one in results for label in one["distances"] if label != FULL_PRECISION]
    if not halves:
        return
    yield f"Judged values with keys in half precision, less those with keys in {FULL_PRECISION}:"
    yield ""
    yield from _head(["model and length", "keys in", "mean difference", "largest difference"])
    for one, label in halves:
        half, full = (log_values(one["rows"], how, one["weights"]) for how in (label, FULL_PRECISION))
        gaps = abs(half - full)
        yield _row([one["name"], label, f"{gaps.mean():.1e}", f"{gaps.max():.1e}"])
    yield ""


def cost_section(results: list[Result]) -> Iterator[str]:
    """A line per length."""
    yield "## Seconds"
    yield ""
    yield (
        "One document with facts, medians of rounds in which all ways take turns. *Share* is that of the "
        "tokens that run. The cosine is that of the gradients by ln lambda on the same tokens."
    )
    yield ""
    yield from _head(
        ["tokens", "share", "keep keys", "judge", "read", "ratio", "gradient, judged", "gradient, read",
         "ratio", "cosine", "kept MiB"]
    )  # fmt: skip
    for one in results:
        value, gradient = one["exact"] / one["kept"], one["exact_gradient"] / one["kept_gradient"]
        judged = [f"{one['keep']:.3f}", f"{one['kept']:.3f}", f"{one['exact']:.3f}", f"{value:.1f}"]
        gradients = [f"{one['kept_gradient']:.3f}", f"{one['exact_gradient']:.3f}", f"{gradient:.1f}"]
        rest = [f"{one['gradient_cosine']:.4f}", f"{one['kept_mib']:.1f}"]
        yield _row([str(one["length"]), f"{one['share_of_queries']:.1%}", *judged, *gradients, *rest])


def arithmetic_section() -> Iterator[str]:
    """What the paper's budget costs, and from which length on it is at most 5 readings."""
    limit = f"{MOST_READINGS:g}"
    yield f"## {NUM_CANDIDATES} candidates, by arithmetic"
    yield ""
    yield (
        f"In readings of the search documents: 1 for the keys, and {NUM_CANDIDATES} times what a candidate "
        "computes. Each candidate is judged on each document, so that the number of documents cancels. By "
        "tokens, as the product counts, or by floating-point operations for the shape of Llama 3.1 8B "
        "(products of matrices; scored tokens see half of the text on average, facts all of it). Scored are "
        f"an eighth of the tokens, and at most the given number; facts are {TOKENS_PER_FACT} more tokens "
        f"each, one per {TOKENS_OF_A_FACT} tokens and at most {MOST_FACTS}."
    )
    yield ""
    yield from _head(["most scored", "objective", "counted by", *(f"{n} tokens" for n in LENGTHS)])
    for cells, share in _ways():
        yield _row([*cells, *(f"{cost(share, length, 1.0):.1f}" for length in LENGTHS)])
    yield ""
    yield f"The shortest length at which they cost at most {limit} readings, in multiples of 1024 tokens:"
    yield ""
    yield from _head(["most scored", "objective", "counted by", *FIXED.values()])
    for cells, share in _ways():
        found = [shortest(share, fixed) for fixed in FIXED]
        yield _row([*cells, *("none" if length is None else str(length) for length in found)])
    yield ""
    yield (
        f"How many tokens may run for a candidate, in all documents together, for at most {limit} readings "
        "with the first reading alone. Below this, candidates would be judged on a part of the documents:"
    )
    yield ""
    documents = (1, 3, 5, 10)
    yield from _head(["tokens of a document", *(f"{number} document(s)" for number in documents)])
    for length in LENGTHS:
        yield _row([str(length), *(f"{most_tokens(length, number, 1.0):.0f}" for number in documents)])


def _ways() -> Iterator[tuple[list[str], Any]]:
    for most in MOST_SCORED:  # spread over the text, scored tokens are the same share of both
        yield [str(most), "perplexity", "both"], partial(share_of_tokens, most=most, with_facts=False)
    for most in MOST_SCORED:
        for name, share in (("tokens", share_of_tokens), ("operations, 8B", share_of_operations)):
            yield [str(most), "facts", name], partial(share, most=most, with_facts=True)


def _sets(journal: Result) -> dict[str, NDArray[np.bool_]]:
    """The candidates of a journal over which agreement is stated."""
    ranks = np.array(journal["ranks"])
    every, best = journal["every"], journal["best"]
    return {"all": ranks % every == 0, f"best {best}": ranks < best}


def _agreement(one: Result, label: str, chosen: Any) -> Agreement:
    values = [log_values(one["rows"], how, one["weights"])[chosen] for how in (label, SAME, ALL)]
    return Agreement.of(*values)


def _distance_tables(results: Sequence[Result]) -> Iterator[str]:
    yield (
        "Errors on the same tokens by the distance of the candidate from what keys were kept under, as the "
        "trust region measures it: the root mean square difference in ln lambda, or three times that in ln "
        "attention factor if it is larger."
    )
    yield ""
    yield from _bins(results, "distances", "distance", DISTANCES)
    yield ""
    yield "By the difference in start tokens, which that distance does not contain:"
    yield ""
    yield from _bins(results, "start_tokens", "start tokens more or fewer", START_TOKENS)


def _bins(results: Sequence[Result], kind: str, title: str, borders: Sequence[float]) -> Iterator[str]:
    yield from _head(["of", "keys", title, "candidates", "mean error", "largest error"])
    for one in results:
        same = log_values(one["rows"], SAME, one["weights"])
        for label, distances in one[kind].items():
            errors = log_values(one["rows"], label, one["weights"]) - same
            for found in in_bins(distances, errors, borders):
                nats = [f"{found.mean_error:.4f}", f"{found.largest_error:.4f}"]
                yield _row([one["name"], label, found.label, str(found.num_candidates), *nats])


def _term(one: Result, how: str, index: int) -> NDArray[np.float64]:
    return np.array([row[how][index] for row in one["rows"]])


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _row(names)
    yield _row(["---"] * len(names))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
