"""Model and text in, factors out: the search room's front door."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.rope_config import RopeDescription
from ropewalk.search.early_stopping import StopSet
from ropewalk.search.engine_constraints import Probes
from ropewalk.search.finalists import ClosedForm, closed_form_candidates
from ropewalk.search.journal import Journal
from ropewalk.search.loop import Progress, left_for_strategy, run_search
from ropewalk.search.named_spaces import make_space
from ropewalk.search.objective import Objective
from ropewalk.search.objective_terms import TermTask, make_terms
from ropewalk.search.provenance import describe_environment, identify
from ropewalk.search.result import SearchResult, result_of
from ropewalk.search.settings import REFERENCE_STRATEGIES, SearchSettings
from ropewalk.search.space import SearchSpace, attention_choices, start_token_choices
from ropewalk.search.strategies import Task, make_strategy
from ropewalk.text.tokens import DocumentSet


def search_factors(
    loaded: Model,
    documents: DocumentSet,
    *,
    target_length: int,
    stop_documents: DocumentSet | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[Progress], None] | None = None,
    own: RescaleFactors | None = None,
    closed_forms: bool = True,
    **settings: Any,
) -> SearchResult:
    """Search rescale factors that let a model read `target_length` tokens.

    The model is left as it was. With a journal that was begun before, the run goes on where it stood.

    What comes back is the best on the stop documents among the searched candidates and the closed-form
    schemes; see `search.finalists`.

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
        closed_forms: whether closed-form schemes are compared with in the end; without, the best searched
            candidate comes back in any case.
        settings: fields of `SearchSettings`, e.g. `strategy="evolution", budget=100, seed=1`; the rest
            follows from them, see `SearchSettings.choose`.

    Raises:
        SettingError: a setting out of its range, or the target not longer than the window, or than the model
            reads with its own scaling where no base is given.
        FactorsError: `own` is of another geometry.
        ModelError: the model can't take factors for this target.
        EvaluationError: every candidate failed.
        RunFolderError: the journal is in use, of another run, damaged, or can't be written.
    """
    chosen = choose_beside(own, settings)
    if own is None:
        require_beyond_reach(loaded.description, target_length, settings.get("base"))
    space, beneath = space_on(loaded, target_length, chosen, own)
    carried = loaded.description.own if beneath is None else None
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
        closed_forms=closed_form_candidates(space, chosen, carried) if closed_forms else (),
    )


def choose_beside(known: RescaleFactors | None, settings: Mapping[str, Any]) -> SearchSettings:
    """`SearchSettings.choose` for a model with known factors: who leaves attention alone keeps theirs."""
    said = {name: value for name, value in settings.items() if value is not None}
    leaves_alone = said.get("strategy") in REFERENCE_STRATEGIES and said.get("serve_with") != "any"
    if known is not None and leaves_alone:
        said.setdefault("attention_factor", known.attention_factor)
    return SearchSettings.choose(**said)


def require_beyond_reach(description: RopeDescription, target_length: int, base: str | None) -> None:
    """Refuse a target that the model reads as it is, unless the caller names the base.

    With `native` a scaling that the model has is replaced, so that factors for such a target can be searched;
    but few who leave the base out mean that.

    Raises:
        SettingError: says how far the model reads, and what to give instead.
    """
    reach = description.own_reach
    if base is not None or target_length > reach or target_length <= description.geometry.original_length:
        return
    if not description.has_own_scaling:
        raise SettingError(
            f"The target length is {target_length} tokens, but this model's configuration says that it "
            f"already reads {reach}: give a longer target, or its trained window with --original-length, or "
            f"--base native."
        )
    raise SettingError(
        f"The target length is {target_length} tokens, but with its own scaling this model already reads "
        f"{reach}: give a target above {reach} with --base as-is to extend that, or --base native to replace "
        f"its scaling."
    )


def space_on(
    loaded: Model, target_length: int, chosen: SearchSettings, own: RescaleFactors | None = None
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
    loaded: Model,
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
    loaded: Model,
    documents: DocumentSet,
    *,
    space: SearchSpace,
    chosen: SearchSettings,
    own: RescaleFactors | None = None,
    more_identity: Mapping[str, Any] = MappingProxyType({}),
    stop_documents: DocumentSet | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[Progress], None] | None = None,
    closed_forms: tuple[ClosedForm, ...] = (),
) -> SearchResult:
    """Search a space; `search_factors` and `readjust` make theirs and end here.

    Args:
        own: what the candidates are multiplied onto.
        more_identity: what else a resumed run must have alike.
        closed_forms: what is compared with in the end.
    """
    objective = make_objective(loaded, documents, space, chosen, own)
    stop_set = None
    if stop_documents is not None:
        require_disjoint(documents, stop_documents, space.target_length)
        on_stop_documents = make_objective(loaded, stop_documents, space, chosen, own)
        stop_set = StopSet(on_stop_documents, objective, chosen.num_evaluations)
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
            journal.begin(identity, environment)
        outcome = run_search(
            strategy, objective, journal, budget=chosen.num_evaluations, max_minutes=chosen.max_minutes,
            stop_set=stop_set, probes=probes, closed_forms=closed_forms, on_trial=on_trial,
        )  # fmt: skip
    same_throughout = journal is None or len(journal.environments) == 1
    return result_of(
        outcome,
        identity,
        environment,
        on_search=objective,
        on_stop=None if stop_set is None else stop_set.objective,
        reproducible=chosen.max_minutes is None and same_throughout,
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


def require_disjoint(documents: DocumentSet, others: DocumentSet, length: int) -> None:
    """Refuse search documents that are stop documents too, as far as they are read: `length` tokens.

    Raises:
        SettingError: any of them is.
    """
    if documents.shares_documents_with(others, length):
        raise SettingError(
            "A stop document is also a search document: give others, or leave the stop set out."
        )
