"""Which targets the measurements of `facts.py` meet."""

from statistics import median

from facts_measured import (
    CLOSED,
    DEFAULT,
    EVOLUTION,
    RAMPS,
    TARGET,
    UNDECIDED,
    Measured,
    lowest,
    median_search,
    retrieval,
)

MOST_COST, MOST_EVOLUTION_COST, MOST_DIFFERENCE = 8, 5, 0.005
MET, MISSED, UNKNOWN = "met", "missed", "not measured"


def targets(seen: Measured) -> list[list[str]]:
    """A row for each: the target, what was measured, and whether it is met."""
    return [
        retrieval_target(seen),
        perplexity_target(seen),
        gain_target(seen),
        cost_target(seen),
        evolution_cost_target(seen),
        evolution_value_target(seen),
    ]


def retrieval_target(seen: Measured) -> list[str]:
    target = "answers of the default search not below the best closed form's, at any length and kind"
    every = list(retrieval(seen))
    behind = [one for one in every if one.middle < one.of_best]
    shown = "; ".join(
        f"{one.kind}, {one.length}: {one.middle} against {one.of_best}, {one.verdict}" for one in behind
    )
    result = MISSED if any(one.verdict == "worse" for one in behind) else UNDECIDED if behind else MET
    about = f"below at {len(behind)} of {len(every)}" + (f" ({shown})" if shown else "")
    return [target, about, result] if every else [target, "", UNKNOWN]


def perplexity_target(seen: Measured) -> list[str]:
    target = "perplexity on unseen documents not above any closed form's or tuned ramp's"
    ours, rival = median_search(seen), lowest(seen, CLOSED, RAMPS)
    if ours is None or rival is None:
        return [target, "", UNKNOWN]
    difference = seen.difference(ours, rival)
    above = MISSED if difference.is_lower is False else UNDECIDED
    return [target, f"{difference} against {rival}", MET if difference.nats <= 0 else above]


def gain_target(seen: Measured) -> list[str]:
    target = "one of the two better beyond its interval"
    ours, rival = median_search(seen), lowest(seen, CLOSED, RAMPS)
    if ours is None or rival is None:
        return [target, "", UNKNOWN]
    better = [
        f"answers, {one.kind}" for one in retrieval(seen) if one.length == TARGET and one.verdict == "better"
    ]
    if seen.difference(ours, rival).is_lower:
        better.insert(0, "perplexity")
    return [target, "; ".join(better) or "neither", MET if better else MISSED]


def cost_target(seen: Measured) -> list[str]:
    target = f"cost of the default search at most {MOST_COST} readings"
    made = [one for label in seen.labels(DEFAULT) if (one := seen.search(label)) is not None]
    if not made:
        return [target, "", UNKNOWN]
    cost = median(one["cost"] + one["cost_of_choice"] for one in made)
    return [target, f"{cost:.2f}, median", MET if cost <= MOST_COST else MISSED]


def evolution_cost_target(seen: Measured) -> list[str]:
    target = f"the evolution's candidates judged from kept keys for at most {MOST_EVOLUTION_COST} readings"
    label, _ = _evolutions(seen)
    made = None if label is None else seen.search(label)
    if made is None:
        return [target, "", UNKNOWN]
    about = f"{made['num_candidates']} candidates, {made['cost']:.1f}"
    return [target, about, MET if made["cost"] <= MOST_EVOLUTION_COST else MISSED]


def evolution_value_target(seen: Measured) -> list[str]:
    target = f"their best candidate's exact value within {MOST_DIFFERENCE:.1%} of that of the exact run"
    kept, exact = (None if label is None else seen.exact_values(label) for label in _evolutions(seen))
    if kept is None or exact is None:
        return [target, "", UNKNOWN]
    above = {which: kept[which] / exact[which] - 1 for which in ("search", "unseen")}
    about = f"{above['unseen']:+.2%} on unseen documents, {above['search']:+.2%} on search documents"
    return [target, about, MET if above["unseen"] <= MOST_DIFFERENCE else MISSED]


def _evolutions(seen: Measured) -> tuple[str | None, str | None]:
    """The last evolution from kept keys, and the exact one with as many candidates."""
    every = seen.labels(EVOLUTION)
    kept = next((label for label in reversed(every) if "kept keys" in label), None)
    exact = None if kept is None else kept.replace("kept keys", "exact")
    return kept, exact if exact in every else None
