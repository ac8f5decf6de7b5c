"""SearchResult: the factors of a search, and how they compare with what was not written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.factors.rescale_factors import Provenance, RescaleFactors
from ropewalk.search.finalists import Finalist
from ropewalk.search.objective import Objective
from ropewalk.search.outcome import SearchOutcome
from ropewalk.search.provenance import provenance_of
from ropewalk.search.trial import OF_THE_SEARCH, Trial
from ropewalk.text.splits import ROLE_NAMES


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of a search.

    Attributes:
        factors: what is written, ready to be installed: the best searched candidate, or a closed-form scheme
            with a lower value on the validation documents. Their provenance says how they were found.
        factors_without_start_tokens: the same with n-hat 0, for engines without it; None if those failed.
        outcome: every trial, and what was compared in the end.
        identity, environment: what was run, and with which versions on which machine, as JSON values.
        reproducible: whether the same settings and versions give the same factors again.
        not_written: the best searched candidate's factors, where a closed-form scheme is written.
        exact_because: why every document was read in full although kept keys are the default; None where that
            is not so.
    """

    factors: RescaleFactors
    factors_without_start_tokens: RescaleFactors | None
    outcome: SearchOutcome
    identity: dict[str, Any]
    environment: dict[str, Any]
    reproducible: bool
    not_written: RescaleFactors | None = None
    exact_because: str | None = None

    @property
    def searched_factors(self) -> RescaleFactors:
        """Those of the best searched candidate, written or not."""
        return self.not_written or self.factors

    @property
    def value(self) -> float:
        """Of the best searched candidate on the search documents; see `value_name`."""
        assert self.outcome.best.value is not None
        return self.outcome.best.value

    @property
    def validation_value(self) -> float | None:
        """Of the best searched candidate on the validation documents; None without them."""
        return None if self.outcome.on_validation is None else self.outcome.on_validation.value

    @property
    def closed_form(self) -> Finalist | None:
        """The closed-form scheme that is written; None where the best searched candidate is."""
        return None if self.outcome.choice is None else self.outcome.choice.closed_form

    @property
    def deciding_value(self) -> float:
        """The value of `factors` on the documents that decided: validation or search documents."""
        choice, found = self.outcome.choice, self.closed_form
        if choice is not None and found is None:
            value = choice.searched.value
        else:
            value = self.validation_value if found is None else found.trial.value
        return self.value if value is None else value

    @property
    def nats_without_start_tokens(self) -> float | None:
        """What n-hat 0 costs, in nats per token on the search documents."""
        plain = self.outcome.best_without_start_tokens
        return None if plain is None or plain.value is None else math.log(plain.value / self.value)

    @property
    def nats_of_constraints(self) -> float | None:
        """What the engine's constraints cost at least, in nats per token; None if there are none.

        0 if none of the unconstrained candidates was better.
        """
        best = self.outcome.unconstrained
        return None if best is None or best.value is None else max(0.0, math.log(self.value / best.value))

    @property
    def value_name(self) -> str:
        """`perplexity`, if the objective is one, else `value`."""
        return "perplexity" if self.identity["objective"].startswith("perplexity of ") else "value"

    @property
    def about_choice(self) -> str | None:
        """What was chosen, and on which documents; None where nothing was compared."""
        choice = self.outcome.choice
        if choice is None:
            return None
        text = self.identity["text" if choice.decided_by == "search" else "stop_text"]
        where = f"chosen on the {text['num_documents']} {ROLE_NAMES[choice.decided_by]} documents"
        if choice.decided_by == "search":
            where += ", which the search follows, as there are no validation documents"
        name, ours, best = self.value_name, _shown(choice.searched), choice.best_closed_form
        if best is None:
            return f"{where}: {name} {ours}; no closed-form scheme could be measured"
        theirs = _shown(best.trial)
        if choice.closed_form is None:
            schemes = f"the best of {choice.num_compared} closed-form schemes, {best.label},"
            if best.is_trained:
                schemes = "the factors of the training"
            return f"{where}: {name} {ours}; {schemes} has {theirs}"
        worse = [
            term for term in choice.worse_terms(choice.searched) if choice.searched.rank < best.trial.rank
        ]
        but = f", but is worse in {' and '.join(worse)} beyond the limit" if worse else ""
        return f"{where}: {best.label}, {name} {theirs}; the best searched candidate has {ours}{but}"

    def as_dict(self) -> dict[str, Any]:
        """The result in short, as JSON values."""
        plain = self.outcome.best_without_start_tokens
        return {
            "objective": self.factors.provenance.objective,
            "value": self.value,
            "stop_value": self.validation_value,
            "best_trial": self.outcome.best.index,
            "num_start_tokens": self.factors.num_start_tokens,
            "attention_factor": self.factors.attention_factor,
            "value_without_start_tokens": None if plain is None else plain.value,
            "nats_without_start_tokens": self.nats_without_start_tokens,
            "serve_with": self.identity["serve_with"],
            "nats_of_limits": self.nats_of_constraints,
            "num_trials": len(self.outcome.trials),
            "num_failed": self.outcome.num_failed,
            "cost": self.outcome.cost,
            "largest_error": self.outcome.largest_error,
            "seconds": self.outcome.seconds,
            "stopped_by": self.outcome.stopped_by,
            "reproducible": self.reproducible,
            "pareto_front": pareto_front(self.outcome.trials),
            "choice": None if self.outcome.choice is None else self.outcome.choice.as_dict(),
        }


def pareto_front(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Of an objective of several terms, the complete trials that no other beats in every term.

    Each as its index and its nats by term, best in the first term first; empty for one term. Unconstrained
    candidates can't be chosen, and so are not among them.
    """
    points = {
        t.index: {name: math.fsum(nats) for name, nats in t.parts.items()}
        for t in trials
        if t.is_complete and t.kind in OF_THE_SEARCH
    }
    if not points or len(next(iter(points.values()))) < 2:
        return []

    def is_beaten(index: int) -> bool:
        return any(
            other != index
            and all(points[other][name] <= nats for name, nats in points[index].items())
            and (points[other] != points[index] or other < index)
            for other in points
        )

    front = [index for index in points if not is_beaten(index)]
    return [
        {"trial": i, "nats": points[i]} for i in sorted(front, key=lambda i: next(iter(points[i].values())))
    ]


def _shown(trial: Trial) -> str:
    return "no value" if trial.value is None else f"{trial.value:.4f}"


def result_of(
    outcome: SearchOutcome,
    identity: dict[str, Any],
    environment: dict[str, Any],
    *,
    on_search: Objective,
    on_validation: Objective | None,
    reproducible: bool,
    exact_because: str | None = None,
) -> SearchResult:
    """The result of a search, its factors with their provenance.

    Args:
        on_search, on_validation: what was minimised, on the search and on the validation documents.
        exact_because: as in `SearchResult`.
    """
    choice = outcome.choice

    def searched(trial: Trial) -> RescaleFactors:
        provenance = provenance_of(identity, environment, outcome, trial, reproducible)
        if choice is not None:
            provenance = replace(provenance, settings={**provenance.settings, "choice": choice.as_dict()})
        return on_search.factors(trial.candidate).replace(provenance=provenance)

    best = searched(outcome.best)

    def closed_form(found: Finalist) -> RescaleFactors:
        objective = on_search if on_validation is None else on_validation
        text = identity["text"] if on_validation is None else identity["stop_text"]
        provenance = _of_closed_form(found, best.provenance, text, objective.name)
        return objective.factors(found.trial.candidate).replace(provenance=provenance)

    plain = outcome.best_without_start_tokens
    factors, without_start_tokens = best, None if plain is None else searched(plain)
    if choice is not None and choice.closed_form_plain is not None:
        without_start_tokens = closed_form(choice.closed_form_plain)
    if choice is not None and choice.closed_form is not None:
        factors = without_start_tokens = closed_form(choice.closed_form)
    return SearchResult(
        factors=factors,
        factors_without_start_tokens=without_start_tokens,
        outcome=outcome,
        identity=identity,
        environment=environment,
        reproducible=reproducible,
        not_written=None if factors is best else best,
        exact_because=exact_because,
    )


def _of_closed_form(
    found: Finalist, searched: Provenance, text: Mapping[str, Any], objective: str
) -> Provenance:
    """The factors of a scheme; their provenance names the documents and the search that chose it."""
    settings = searched.settings
    of_the_search = {
        name: getattr(searched, name)
        for name in ("strategy", "seed", "data_sha256", "objective", "objective_value")
    }
    of_its_text = {name: settings[name] for name in ("text", "num_documents")}
    return replace(
        searched,
        strategy=found.label,
        seed=None,
        data_sha256=text["data_sha256"],
        objective=objective,
        objective_value=found.trial.value,
        settings={
            **settings,
            "text": text["source"],
            "num_documents": text["num_documents"],
            "search": of_the_search | of_its_text,
        },
    )
