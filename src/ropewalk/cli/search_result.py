"""The result of a search as text: what is written and why, and what engine constraints cost."""

from typing import TYPE_CHECKING

from ropewalk.cli.output import clock

if TYPE_CHECKING:
    from ropewalk.factors.rescale_factors import RescaleFactors
    from ropewalk.search.finalists import Finalist
    from ropewalk.search.result import SearchResult
    from ropewalk.search.run_folder import RunFolder

STOPPED_BY = {
    "budget": "the budget",
    "time": "the time limit",
    "nothing new": "the strategy, which had nothing new to try",
    "stop set": "early stopping: no improvement on the validation documents",
}


def files(found: "SearchResult", folder: "RunFolder") -> dict[str, str]:
    """The files of a search, by their role."""
    searched = {} if found.closed_form is None else {"factors_searched": str(folder.searched_factors_path)}
    return {
        "factors": str(folder.factors_path),
        "factors_without_start_tokens": str(folder.factors_without_start_tokens_path),
        **searched,
        "journal": str(folder.journal_path),
        "run": str(folder.run_path),
    }


def story(found: "SearchResult", folder: "RunFolder") -> str:
    """What is written and why, what n-hat is worth or the constraints cost, and where it is."""
    lines = [*_about_written(found, folder), *_about_searched(found)]
    if found.value_name != "perplexity":
        lines.append(f"  the value is {found.identity['objective']}")
    if found.factors.is_near_far:
        lines.append("  only Ropewalk's runtime computes a near window, no other engine (docs/near-far.md)")
    elif found.identity["serve_with"] == "ropewalk":
        lines.append(f"  {_worth_of_start_tokens(found)}")
        if found.factors_without_start_tokens is not None:
            plain = folder.factors_without_start_tokens_path
            lines.append(f"  the best with n-hat 0{_closed_form_plain(found)}: {plain}")
    else:
        lines.append(f"  {_cost_of_constraints(found)}")
    lines += [f"  {line}" for line in _published(found)]
    if not found.reproducible:
        lines.append("  not reproducible to the bit: a time limit, or versions that changed on the way")
    return "\n".join(lines) + "\n"


def _about_written(found: "SearchResult", folder: "RunFolder") -> list[str]:
    """Where the factors are, and on which documents they were chosen."""
    choice, why = found.outcome.choice, []
    if choice is not None:
        cost = f"{choice.cost:.1f} evaluations in {clock(choice.seconds)}, outside the budget"
        why = [f"  {found.about_choice} ({cost})"]
    if found.closed_form is None:
        return [f"Searched factors: {folder.factors_path}", *why]
    what = "the training" if found.closed_form.is_trained else "a closed-form scheme"
    return [
        f"Factors of {what}, NOT searched ones: {folder.factors_path}",
        *why,
        f"The best searched candidate: {folder.searched_factors_path}",
    ]


def _about_searched(found: "SearchResult") -> list[str]:
    """The best searched candidate, and what it cost to find it."""
    outcome, factors = found.outcome, found.searched_factors
    failed = f", {outcome.num_failed} failed" if outcome.num_failed else ""
    stopped = (
        ""
        if found.validation_value is None
        else f" ({found.validation_value:.4f} on the validation documents)"
    )
    return [
        f"  {found.value_name} {found.value:.4f} on the search documents{stopped} at "
        f"{factors.target_length} tokens, {_about_factors(factors)}",
        f"  found by {found.identity['strategy']} as trial {outcome.best.index + 1} of {len(outcome.trials)}"
        f"{failed}, in {clock(outcome.seconds)} and {outcome.cost:.1f} evaluations; stopped by "
        f"{STOPPED_BY[outcome.stopped_by]}",
        *(f"  {line}" for line in _about_kept_keys(found)),
    ]


def _about_factors(factors: "RescaleFactors") -> str:
    if factors.is_near_far:
        return (
            f"near window {factors.near_window} tokens, attention factor {factors.near_attention_factor:g} "
            f"within it and {factors.attention_factor:g} beyond it"
        )
    return f"n-hat {factors.num_start_tokens}, attention factor {factors.attention_factor:g}"


def _about_kept_keys(found: "SearchResult") -> list[str]:
    """How wrong values from kept keys were at renewals, or why there were none."""
    if found.exact_because is not None:
        larger = "--exact has a larger default budget"
        return [f"every document was read in full ({larger}): {found.exact_because}"]
    if found.identity["exact"]:
        return []
    error = found.outcome.largest_error
    about = "never checked" if error is None else f"wrong by at most {error:.4f} nats when checked"
    return [f"values on the search documents are from kept keys, {about} (--exact reads all in full)"]


def _published(found: "SearchResult") -> list[str]:
    """Closed forms with a lower value than what is written, but an attention factor that it may not have."""
    from ropewalk.text.splits import ROLE_NAMES

    choice = found.outcome.choice
    if choice is None:
        return []
    return [
        _about_published(one, ROLE_NAMES[choice.decided_by], found)
        for one in choice.published
        if one.trial.value is not None and one.trial.value < found.deciding_value
    ]


def _about_published(one: "Finalist", documents: str, found: "SearchResult") -> str:
    value = f"{one.trial.value:.4f} on the {documents} documents"
    if one.is_own:
        about = "below what is written: it may need no other factors at this length"
        return f"the model as it is ({one.label}) has {value}, {about}"
    factor, kept = one.trial.candidate.attention_factor, found.factors.attention_factor
    return f"{one.label} has {value} with the attention factor {factor:g}, but the search keeps {kept:g}"


def _worth_of_start_tokens(found: "SearchResult") -> str:
    plain, cost = found.outcome.best_without_start_tokens, found.nats_without_start_tokens
    if found.identity["start_tokens"] == "none":
        return "n-hat 0, which every engine can run: no other was requested"
    if found.factors.num_start_tokens == 0:
        return "n-hat 0, which every engine can run, costs nothing: it is the best"
    if plain is None or cost is None:
        return "with n-hat 0 nothing could be evaluated"
    return (
        f"n-hat 0, which every engine can run, costs {cost:.4f} nats per token: {found.value_name} "
        f"{plain.value:.4f}"
    )


def _closed_form_plain(found: "SearchResult") -> str:
    choice = found.outcome.choice
    plain = None if choice is None else choice.closed_form_plain
    return "" if plain is None else f", the closed-form scheme {plain.label}"


def _cost_of_constraints(found: "SearchResult") -> str:
    engine, free, cost = found.identity["serve_with"], found.outcome.unconstrained, found.nats_of_constraints
    limits = f"constrained to what {'every engine' if engine == 'any' else engine} can run: n-hat 0"
    if free is None or cost is None:
        return f"{limits}; no unconstrained candidate could be evaluated"
    if cost == 0:
        return f"{limits}; no unconstrained candidate was better (--serve-with ropewalk searches there)"
    return (
        f"{limits}, which costs at least {cost:.4f} nats per token: n-hat {free.candidate.num_start_tokens} "
        f"gives {free.value:.4f} (--serve-with ropewalk searches there)"
    )
