"""Model and text in, factors out: the search room's front door."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ropewalk.errors import SettingError
from ropewalk.factors import RescaleFactors
from ropewalk.geometry import RopeGeometry
from ropewalk.models.load import LoadedModel
from ropewalk.search.guard import StopSet
from ropewalk.search.journal import Journal
from ropewalk.search.limits import Probes
from ropewalk.search.loop import OF_THE_SEARCH, Progress, SearchOutcome, left_for_strategy, run_search
from ropewalk.search.objective import Objective
from ropewalk.search.provenance import describe_environment, differing_runs, identify, provenance_of
from ropewalk.search.racing import Race, RacingSettings
from ropewalk.search.settings import REFERENCE_STRATEGIES, SearchSettings
from ropewalk.search.space import SearchSpace, attention_choices, start_token_choices
from ropewalk.search.spaces import make_space
from ropewalk.search.strategies import Task, make_strategy
from ropewalk.search.terms import TermTask, make_terms
from ropewalk.search.trial import Trial
from ropewalk.text.tokens import DocumentSet


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search gives back.

    Attributes:
        factors: the best, ready to be installed; they say how they were found.
        factors_without_start_tokens: the best with n-hat 0, for engines without it; None if those failed.
        outcome: every trial.
        identity, environment: what was run, and with which versions on which machine, as JSON values.
        reproducible: whether the same settings and versions give the same factors again.
    """

    factors: RescaleFactors
    factors_without_start_tokens: RescaleFactors | None
    outcome: SearchOutcome
    identity: dict[str, Any]
    environment: dict[str, Any]
    reproducible: bool

    @property
    def value(self) -> float:
        """The value of `factors` on the search documents: a perplexity, unless the objective is another."""
        assert self.outcome.best.value is not None
        return self.outcome.best.value

    @property
    def stop_value(self) -> float | None:
        """The value of `factors` on the stop set; None without one."""
        return None if self.outcome.on_stop_set is None else self.outcome.on_stop_set.value

    @property
    def nats_without_start_tokens(self) -> float | None:
        """What n-hat 0 costs, in nats a token on the search documents."""
        plain = self.outcome.best_without_start_tokens
        return None if plain is None or plain.value is None else math.log(plain.value / self.value)

    @property
    def nats_of_limits(self) -> float | None:
        """What the serving engine's limits cost at least, in nats a token; None where nothing is limited.

        0 where none of the probes of the free space was better.
        """
        free = self.outcome.free
        return None if free is None or free.value is None else max(0.0, math.log(self.value / free.value))

    def as_dict(self) -> dict[str, Any]:
        """The result in short, as JSON values."""
        plain = self.outcome.best_without_start_tokens
        return {
            "objective": self.factors.provenance.objective,
            "value": self.value,
            "stop_value": self.stop_value,
            "best_trial": self.outcome.best.index,
            "num_start_tokens": self.factors.num_start_tokens,
            "attention_factor": self.factors.attention_factor,
            "value_without_start_tokens": None if plain is None else plain.value,
            "nats_without_start_tokens": self.nats_without_start_tokens,
            "serve_with": self.identity["serve_with"],
            "nats_of_limits": self.nats_of_limits,
            "num_trials": len(self.outcome.trials),
            "num_failed": self.outcome.num_failed,
            "num_dropped": self.outcome.num_dropped,
            "cost": self.outcome.cost,
            "seconds": self.outcome.seconds,
            "stopped_by": self.outcome.stopped_by,
            "reproducible": self.reproducible,
            "pareto_front": pareto_front(self.outcome.trials),
        }


def search_factors(
    loaded: LoadedModel,
    documents: DocumentSet,
    *,
    target_length: int,
    stop_documents: DocumentSet | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[Progress], None] | None = None,
    own: RescaleFactors | None = None,
    **settings: Any,
) -> SearchResult:
    """Search rescale factors that let a model read `target_length` tokens.

    The model is left as it was. With a journal that was begun before, the run goes on where it stood.

    With `own` this is LongRoPE's second search (arXiv 2402.13753, Sec. 3.3): on a model that was tuned with
    these factors, relative to them, from their target on. What comes back is the total, lambda by lambda the
    product, which holds for the model's plain geometry. The settings speak of the total's attention factor
    too: `longrope` is sqrt(1 + ln s / ln L) of the whole s, because an engine computes it from that; what is
    searched is the quotient to the one of `own`, so that none counts twice. A reference strategy, which
    leaves attention alone, keeps the one of `own`.

    Args:
        documents: of at least `target_length` tokens each; the search follows these.
        target_length: L', tokens.
        stop_documents: others, that end the search when it only fits the first, and choose; None for none.
        journal: not begun yet; it is closed at the end.
        own: what the model was tuned with, where its configuration does not carry it.
        settings: fields of `SearchSettings`, e.g. `strategy="evolution", budget=100, seed=1`; the rest
            follows from them, see `SearchSettings.choose`.

    Raises:
        SettingError: a setting out of its range, or the target not longer than the window.
        FactorsError: `own` is of another geometry.
        ModelError: the model can't take factors for this target.
        EvaluationError: every candidate failed.
        RunFolderError: the journal is in use, of another run, damaged, or can't be written.
    """
    chosen = choose_beside(own, settings)
    space, beneath = space_on(loaded, target_length, chosen, own)
    return search_in(
        loaded,
        documents,
        space=space,
        chosen=chosen,
        own=beneath,
        more_identity={} if own is None else {"own": own.as_values()},
        stop_documents=stop_documents,
        journal=journal,
        on_trial=on_trial,
    )


def choose_beside(known: RescaleFactors | None, settings: Mapping[str, Any]) -> SearchSettings:
    """`SearchSettings.choose` for a model with known factors: who leaves attention alone keeps theirs."""
    said = {name: value for name, value in settings.items() if value is not None}
    leaves_alone = said.get("strategy") in REFERENCE_STRATEGIES and said.get("serve_with") != "any"
    if known is not None and leaves_alone:
        said.setdefault("attention_factor", known.attention_factor)
    return SearchSettings.choose(**said)


def space_on(
    loaded: LoadedModel, target_length: int, chosen: SearchSettings, own: RescaleFactors | None = None
) -> tuple[SearchSpace, RescaleFactors | None]:
    """The space of a search, and what its candidates are multiplied onto.

    Raises:
        SettingError, FactorsError, ModelError: as `search_factors`.
    """
    if own is None:
        beneath = loaded.description.own_under(chosen.base)
    elif chosen.base == "as-is":
        raise SettingError(
            "The base is `as-is`, but factors that the model was tuned with are given, which speak of the "
            "plain base: leave one of the two out."
        )
    else:
        own.require_geometry(loaded.geometry, loaded.name)
        beneath = own
    if beneath is None:
        return search_space(loaded.geometry, target_length, chosen), None
    space = search_space(beneath.as_window(), target_length, chosen)
    if own is None and chosen.attention_factor != "longrope":
        return space, beneath
    total = attention_choices(chosen.attention_factor, beneath.geometry, target_length)
    on_top = tuple(value / beneath.attention_factor for value in total)
    return replace(space, attention_factors=on_top), beneath


def make_objective(
    loaded: LoadedModel,
    documents: DocumentSet,
    space: SearchSpace,
    chosen: SearchSettings,
    own: RescaleFactors | None = None,
) -> Objective:
    """What a search with these settings minimises on these documents."""
    task = TermTask(
        documents=documents,
        tokenizer=loaded.tokenizer,
        original_length=space.geometry.original_length,
        target_length=space.target_length,
        seed=chosen.seed,
    )
    return Objective(loaded, make_terms(chosen.objective, task, chosen.short_weight), space, own)


def search_in(
    loaded: LoadedModel,
    documents: DocumentSet,
    *,
    space: SearchSpace,
    chosen: SearchSettings,
    own: RescaleFactors | None = None,
    more_identity: Mapping[str, Any] = MappingProxyType({}),
    stop_documents: DocumentSet | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Search a space; `search_factors` and `readjust` make theirs and end here.

    Args:
        own: what the candidates are multiplied onto.
        more_identity: what else a resumed run must have alike.
    """
    objective = make_objective(loaded, documents, space, chosen, own)
    stop_set = None
    if stop_documents is not None:
        _require_disjoint(documents, stop_documents)
        on_stop_documents = make_objective(loaded, stop_documents, space, chosen, own)
        stop_set = StopSet(on_stop_documents, objective, chosen.num_evaluations)
    race = Race([1] * objective.num_documents, RacingSettings(error=chosen.racing)) if chosen.racing else None
    probes = Probes.outside(chosen.serve_with)
    task = Task(
        space=space,
        seed=chosen.seed,
        budget=left_for_strategy(chosen.num_evaluations, objective, space, stop_set, probes),
        evaluation_cost=objective.cost,
        num_documents=objective.num_documents,
        gradient_cost=objective.gradient_cost,
    )
    strategy = make_strategy(chosen.strategy, task, chosen.strategy_settings)
    identity = {
        **identify(loaded, documents, stop_documents),
        "objective": objective.name,
        "space": {"name": chosen.space, **space.as_dict()},
        **chosen.as_dict(),
        "strategy_settings": asdict(strategy.settings),
        **more_identity,
    }
    environment = describe_environment(loaded)
    with nullcontext() if journal is None else journal:
        if journal is not None:
            journal.begin(identity, environment, compare=differing_runs)
        # The model's rotary is learnt once: under factors that are installed, others cost next to nothing.
        with loaded.installed(objective.factors(space.nearest(np.zeros(space.num_knots + 1)))):
            outcome = run_search(
                strategy, objective, journal, budget=chosen.num_evaluations,
                max_minutes=chosen.max_minutes, race=race, stop_set=stop_set, probes=probes,
                on_trial=on_trial,
            )  # fmt: skip
    same_throughout = journal is None or len(journal.environments) == 1
    reproducible = chosen.max_minutes is None and same_throughout

    def documented(trial: Trial) -> RescaleFactors:
        provenance = provenance_of(identity, environment, outcome, trial, reproducible)
        return objective.factors(trial.candidate).replace(provenance=provenance)

    plain = outcome.best_without_start_tokens
    return SearchResult(
        factors=documented(outcome.best),
        factors_without_start_tokens=None if plain is None else documented(plain),
        outcome=outcome,
        identity=identity,
        environment=environment,
        reproducible=reproducible,
    )


def search_space(geometry: RopeGeometry, target_length: int, settings: SearchSettings) -> SearchSpace:
    """Where a search with these settings looks.

    Raises:
        SettingError: a setting out of its range, or the target not longer than the window.
    """
    full = SearchSpace(
        geometry=geometry,
        target_length=target_length,
        start_tokens=start_token_choices(settings.start_tokens),
        attention_factors=attention_choices(settings.attention_factor, geometry, target_length),
    )
    return make_space(
        settings.space,
        full,
        num_knots=settings.num_knots,
        critical_pair=settings.critical_pair,
        monotone=settings.monotone,
    )


def pareto_front(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Of an objective of several terms, the complete trials that no other beats in every term.

    Each as its index and its nats by term, best in the first term first; empty for one term. Probes outside
    the serving engine's limits can't be chosen, and so are not among them.
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


def _require_disjoint(documents: DocumentSet, others: DocumentSet) -> None:
    if documents.shares_documents_with(others):
        raise SettingError(
            "A stop document is also a search document: give others, or leave the stop set out."
        )
