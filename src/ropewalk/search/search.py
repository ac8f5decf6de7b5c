"""search_factors: searches rescale factors for a model on text."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

from ropewalk.errors import SettingError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.search.journal import Journal
from ropewalk.search.outcome import SearchProgress
from ropewalk.search.plan import plan_search
from ropewalk.search.result import SearchResult
from ropewalk.search.settings import SearchOptions, SearchSettings
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.settings import suggest
from ropewalk.text.tokens import DocumentSet

# Keywords of `search_factors` and `readjust` that are no settings.
OTHER_KEYWORDS = (
    "target_length", "settings", "validation_documents", "journal", "on_trial", "base_factors",
    "closed_forms", "workers", "length", "long_factors", "trained_factors", "ceiling",
)  # fmt: skip


def search_factors(
    model: Model,
    documents: DocumentSet,
    *,
    target_length: int,
    settings: SearchSettings | None = None,
    validation_documents: DocumentSet | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[SearchProgress], None] | None = None,
    base_factors: RescaleFactors | None = None,
    closed_forms: bool = True,
    workers: int | WorkerSettings = 1,
    **options: Unpack[SearchOptions],
) -> SearchResult:
    """Search rescale factors with which a model reads `target_length` tokens; the model itself is unchanged.

    The result is the best on the validation documents among the searched candidates and the closed-form
    schemes; see `search.finalists`. With a journal that was begun before, the search is resumed.

    With `base_factors` this is LongRoPE's second search (arXiv 2402.13753, Sec. 3.3): on a model that was
    trained with these factors, relative to them, for a target beyond theirs. The result is the total, lambda
    by lambda the product, for the model's plain geometry. The attention factor in the settings is the total's
    too: `search` is the grid of the whole s, and `longrope` is sqrt(1 + ln s / ln L) of the whole s, because
    an engine computes it from that. A reference strategy, which never changes the attention factor, keeps
    that of `base_factors`.

    Args:
        documents: of at least `target_length` tokens each; the search follows these.
        target_length: L', tokens.
        settings: how to search. Its fields may be given as keywords instead: `budget=100, seed=1`.
        validation_documents: other documents, for early stopping and for the choice of the result.
        journal: not begun yet; it is closed at the end.
        on_trial: called after each new trial.
        base_factors: what the model was trained with, if its configuration does not have it.
        closed_forms: whether the result is compared with closed-form schemes; if not, it is the best searched
            candidate in any case.
        workers: how many processes measure the documents, or their settings; more than 1 need Ray.

    Raises:
        SettingError: an unknown keyword, a setting out of its range, or a target that is not longer than the
            window, or that the model already reads with its own scaling if no base is given.
        FactorsError: `base_factors` are of another geometry.
        ModelError: the model can't take factors for this target.
        EvaluationError: every candidate failed.
        RunFolderError: the journal is in use, of another run, damaged, or can't be written.
    """
    plan = plan_search(
        model.description, target_length, choose_settings(settings, options), base_factors=base_factors,
        closed_forms=closed_forms,
    )  # fmt: skip
    with plan.open_workers(WorkerSettings.of(workers), model, documents, validation_documents) as pool:
        return plan.run(
            model, documents, validation_documents=validation_documents, journal=journal, on_trial=on_trial,
            workers=pool,
        )  # fmt: skip


def choose_settings(settings: SearchSettings | None, options: Mapping[str, Any]) -> SearchSettings:
    """The settings, or those that keywords make.

    Raises:
        SettingError: both are given, or an unknown keyword.
    """
    for name in options:
        if name not in SearchSettings.model_fields:
            near = suggest(name, [*SearchSettings.model_fields, *OTHER_KEYWORDS])
            raise SettingError(
                f"There is no keyword {name!r}{near}: see SearchSettings for those of a search."
            )
    if settings is not None and options:
        raise SettingError(
            f"Settings and the keyword {next(iter(options))} are given: put its value into the settings."
        )
    return settings or SearchSettings.checked(options)
