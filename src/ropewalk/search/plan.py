"""SearchPlan: a search that is checked as a whole before any weight is read, and then run on a model.

plan = plan_search(description, 32768, SearchSettings(budget=100))
result = plan.run(model, documents, validation_documents=others)
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.evaluate.kept_keys import refusal_to_keep
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.rope_config import RopeDescription
from ropewalk.search.budget import renewals, reserved, strategy_budget, too_small
from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.finalists import ClosedForm, closed_form_candidates
from ropewalk.search.journal import Journal
from ropewalk.search.loop import SearchLoop
from ropewalk.search.named_spaces import make_space
from ropewalk.search.objective import Objective
from ropewalk.search.objectives import OBJECTIVES, ObjectiveTask, make_readings, objective_maker
from ropewalk.search.outcome import SearchProgress
from ropewalk.search.provenance import describe_environment, identify
from ropewalk.search.ray_workers import open_workers
from ropewalk.search.renewal import TrustRegion
from ropewalk.search.result import SearchResult, result_of
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import (
    SearchSpace,
    attention_choices,
    near_window_choices,
    start_token_choices,
)
from ropewalk.search.strategies import Task, make_strategy
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.search.workers import SEARCH, VALIDATION, WorkerPool
from ropewalk.text.tokens import DocumentSet

LEAST_KEPT = 2  # a whole number of evaluations, of which the first keys take one


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search whose settings fit the model and one another.

    Attributes:
        space: the candidates.
        base_factors: what its candidates are multiplied onto; None for a model's plain geometry.
        closed_forms: compared with the best candidate after the search.
        more_identity: JSON values that a resumed run must have in common, besides settings, model and text.

    Raises:
        SettingError: an unknown strategy or objective, a wrong setting of the strategy, or a budget too small
            for one trial.
    """

    settings: SearchSettings
    space: SearchSpace
    base_factors: RescaleFactors | None = None
    closed_forms: tuple[ClosedForm, ...] = ()
    more_identity: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = self.settings
        task = Task(space=self.space, seed=settings.seed, budget=settings.num_evaluations)
        make_strategy(settings.strategy, task, settings.strategy_settings)
        objective_maker(settings.objective)
        # The validation documents, what other objectives cost, and what a trial from kept keys costs after
        # the first reading are not known before the text is read.
        checks = reserved(1.0, self.space, unconstrained=self._unconstrained)
        least = 1 + checks if settings.exact else LEAST_KEPT
        if settings.objective in OBJECTIVES and settings.num_evaluations < least:
            raise too_small(settings.num_evaluations, least, with_checks=least > 1)

    def run(
        self,
        model: Model,
        documents: DocumentSet,
        *,
        validation_documents: DocumentSet | None = None,
        journal: Journal | None = None,
        on_trial: Callable[[SearchProgress], None] | None = None,
        workers: WorkerPool | None = None,
    ) -> SearchResult:
        """Runs the search, or resumes it from a journal; the model is unchanged afterwards.

        Args:
            documents: of at least `target_length` tokens each; the search follows these.
            validation_documents: other documents, for early stopping and for the choice of the result.
            journal: not begun yet; it is closed at the end.
            on_trial: called after each new trial.
            workers: of `open_workers` with the same model and documents; None measures in this process.

        Raises:
            SettingError: a document is in both sets, or the budget does not pay for one trial.
            ModelError: the model can't take factors for this target.
            EvaluationError: every candidate failed.
            RunFolderError: the journal is in use, of another run, damaged, or can't be written.
        """
        settings, space = self.settings, self.space
        refusal = None if settings.exact else refusal_to_keep(model, space.target_length)
        is_exact = settings.exact or refusal is not None
        objective = self.objective(model, documents, workers, from_kept=not is_exact)
        early_stopping = None
        if validation_documents is not None:
            require_disjoint(documents, validation_documents, space.target_length)
            on_validation = self.objective(model, validation_documents, workers, VALIDATION)
            early_stopping = EarlyStopping(on_validation, objective, settings.num_evaluations)
        task = Task(
            space=space,
            seed=settings.seed,
            budget=strategy_budget(
                settings.num_evaluations, objective, space, early_stopping, self._unconstrained
            ),
            evaluation_cost=objective.cost,
            num_documents=objective.num_documents,
            gradient_cost=objective.gradient_cost,
        )
        strategy = make_strategy(settings.strategy, task, settings.strategy_settings)
        region = None
        if objective.from_kept:
            checks = reserved(objective.cost, space, early_stopping, self._unconstrained)
            region = TrustRegion(budget=renewals(settings.num_evaluations, objective, checks))
        identity = {
            **identify(model, documents, validation_documents),
            "objective": objective.name,
            "space": {"name": settings.space, **space.as_dict()},
            **settings.identity(),
            "exact": is_exact,
            "strategy_settings": asdict(strategy.settings),
            **self.more_identity,
        }
        environment = describe_environment(model) if workers is None else workers.environment
        with nullcontext() if journal is None else journal:
            if journal is not None:
                journal.begin(identity, environment)
            outcome = SearchLoop(
                strategy, objective, journal, budget=settings.num_evaluations,
                max_minutes=settings.max_minutes, early_stopping=early_stopping,
                unconstrained=self._unconstrained, closed_forms=self.closed_forms, region=region,
                on_trial=on_trial,
            ).run()  # fmt: skip
        same_throughout = journal is None or len(journal.environments) == 1
        return result_of(
            outcome,
            identity,
            environment,
            on_search=objective,
            on_validation=None if early_stopping is None else early_stopping.objective,
            reproducible=settings.max_minutes is None and same_throughout,
            exact_because=refusal,
        )

    def objective(
        self,
        model: Model,
        documents: DocumentSet,
        workers: WorkerPool | None = None,
        which: str = SEARCH,
        *,
        from_kept: bool = False,
    ) -> Objective:
        """What the search minimises, on these documents.

        Args:
            which: their name among those of the workers.
            from_kept: whether candidates are judged from kept keys.
        """
        task = self._objective_task(documents, model.tokenizer)
        readings = make_readings(self.settings.objective, task, self.settings.short_weight)
        measure_all = None if workers is None else workers.measure_all(which)
        return Objective(
            model, readings, self.space, self.base_factors, from_kept=from_kept, measure_all=measure_all
        )

    def open_workers(
        self,
        workers: WorkerSettings,
        model: Model,
        documents: DocumentSet,
        validation_documents: DocumentSet | None = None,
    ) -> AbstractContextManager[WorkerPool | None]:
        """Workers for `run`, for the length of a `with` block; None if they are this process.

        Raises:
            RopewalkError: as `ray_workers.open_workers`.
            SettingError: a model on several GPUs is to keep keys, which it can't.
        """
        if (workers.gpus_per_worker or 0) > 1 and not self.settings.exact:
            raise SettingError(
                f"Each worker has {workers.gpus_per_worker:g} GPUs, but a model on several GPUs keeps no "
                f"keys: give --exact, or one GPU per worker."
            )
        sets = {SEARCH: documents, VALIDATION: validation_documents}
        tasks = {which: self._objective_task(found) for which, found in sets.items() if found is not None}
        return open_workers(
            workers, model, objective=self.settings.objective, short_weight=self.settings.short_weight,
            sets=tasks,
        )  # fmt: skip

    def _objective_task(self, documents: DocumentSet, tokenizer: Any = None) -> ObjectiveTask:
        return ObjectiveTask(
            documents=documents,
            tokenizer=tokenizer,
            original_length=self.space.geometry.original_length,
            target_length=self.space.target_length,
            seed=self.settings.seed,
            answer_weight=self.settings.answer_weight,
        )

    @property
    def _unconstrained(self) -> UnconstrainedCandidates | None:
        return UnconstrainedCandidates.beyond(self.settings.serve_with)


def plan_search(
    description: RopeDescription,
    target_length: int,
    settings: SearchSettings | None = None,
    *,
    base_factors: RescaleFactors | None = None,
    closed_forms: bool = True,
) -> SearchPlan:
    """A search for factors with which a model reads `target_length` tokens.

    Args:
        description: of the model, from `describe_model` or a loaded one.
        target_length: L', tokens.
        base_factors: what the model was trained with; see `search_factors`.
        closed_forms: whether the result is compared with closed-form schemes.

    Raises:
        SettingError: a target that the model already reads, or settings that do not fit the model or one
            another.
        FactorsError: `base_factors` are of another geometry.
        ModelError: `as-is`, and the model's scaling can't be written as factors.
    """
    settings = settings or SearchSettings()
    if base_factors is None:
        require_beyond_reach(description, target_length, settings)
        onto = description.own_under(settings.base)
    elif settings.base == "as-is":
        raise SettingError(
            "The base is `as-is`, but base factors are given, which belong to the model's plain geometry: "
            "leave one of the two out."
        )
    else:
        base_factors.require_geometry(description.geometry, "the model")
        if settings.keeps_attention:
            settings = settings.keeping_attention(base_factors.attention_factor)
        onto = base_factors
    space = _space_onto(
        description.geometry, target_length, settings, onto, is_given=base_factors is not None
    )
    replaced = description.own if onto is None else None
    return SearchPlan(
        settings=settings,
        space=space,
        base_factors=onto,
        closed_forms=closed_form_candidates(space, settings, replaced) if closed_forms else (),
        more_identity={} if base_factors is None else {"own": base_factors.as_values()},
    )


def _space_onto(
    geometry: RopeGeometry,
    target_length: int,
    settings: SearchSettings,
    onto: RescaleFactors | None,
    *,
    is_given: bool,
) -> SearchSpace:
    """The space of factors that are multiplied onto others; its attention factors are quotients to theirs."""
    if onto is None:
        return search_space(geometry, target_length, settings)
    if settings.near_window:
        raise SettingError(
            f"near_window is {settings.near_window}, but near-far factors extend a model that was trained "
            f"without factors: leave the near window or the factors of the training out."
        )
    space = search_space(onto.as_window(), target_length, settings)
    unchanged = RescaleFactors.single(
        geometry=space.geometry, target_length=target_length, rescale_factors=[1.0] * space.num_pairs
    )
    space = replace(space, trained_factors=unchanged)
    if not is_given and not isinstance(settings.attention_factor, str):
        return space
    total = attention_choices(settings.attention_factor, onto.geometry, target_length)
    return replace(space, attention_factors=tuple(value / onto.attention_factor for value in total))


def search_space(geometry: RopeGeometry, target_length: int, settings: SearchSettings) -> SearchSpace:
    """The space of a search with these settings.

    Raises:
        SettingError: a setting that the space does not have, or the target is not longer than the window.
    """
    full = SearchSpace(
        geometry=geometry,
        target_length=target_length,
        start_tokens=start_token_choices(settings.start_tokens),
        attention_factors=attention_choices(settings.attention_factor, geometry, target_length),
        near_windows=near_window_choices(settings.near_window, geometry),
    )
    return chosen_space(settings, full)


def chosen_space(settings: SearchSettings, full: SearchSpace) -> SearchSpace:
    """The space that the settings name, with the bounds of the full one.

    Raises:
        SettingError: a setting that the space can't have.
    """
    return make_space(
        settings.space,
        full,
        num_knots=settings.num_knots,
        critical_pair=settings.critical_pair,
        monotone=settings.monotone,
    )


def require_beyond_reach(description: RopeDescription, target_length: int, settings: SearchSettings) -> None:
    """Refuse a target that the model reads without factors, unless the caller gives the base.

    With `native` a scaling that the model has is replaced, so that factors for such a target can be searched;
    but a caller who gives no base rarely intends that.

    Raises:
        SettingError: the target is within reach; the message states the reach and the alternatives.
    """
    reach = description.own_reach
    is_within = description.geometry.original_length < target_length <= reach
    if "base" in settings.model_fields_set or not is_within:
        return
    if not description.has_own_scaling:
        raise SettingError(
            f"The target length is {target_length} tokens, but this model's configuration says that it "
            f"already reads {reach}: give a longer target, or its trained window (original_length), or base "
            f"native."
        )
    raise SettingError(
        f"The target length is {target_length} tokens, but with its own scaling this model already reads "
        f"{reach}: give a target above {reach} with base as-is to extend that, or base native to replace its "
        f"scaling."
    )


def require_disjoint(documents: DocumentSet, others: DocumentSet, length: int) -> None:
    """Refuse validation documents that are search documents too, as far as they are read: `length` tokens.

    Raises:
        SettingError: any of them is.
    """
    if documents.shares_documents_with(others, length):
        raise SettingError(
            "A validation document is also a search document: give others, or no validation documents."
        )
