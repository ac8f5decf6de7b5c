"""Readjustment: an extended model is searched again at a short length, where less interpolation is better.

LongRoPE (arXiv 2402.13753, Sec. 3.3) searches the extended model again at 4k and at 8k tokens, with a lower
ceiling for lambda, and reads shorter inputs with these factors. It is the same search at another length.
Three things differ from a search that extends:

    bounds       lambda from 1, each pair's own frequency, to `ceiling` times the ratio that the model was
                 extended by. The ratio at the short length is no bound: within the trained window it is
                 below 1, though a trained model may have unlearnt its first frequencies
    candidates   the initial ones include the factors of the long length, and those that the model was trained
                 with; within the window, the closed forms leave every pair as it is
    attention    the factor of the long length, unless the caller gives another: engines that switch between
                 two sets of factors multiply both by one number

The result is the best of searched candidates, closed forms and the factors of the training. It must have a
lower value than the long factors at the short length, on the validation documents if there are any; otherwise
the long factors stay.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.rope_config import RopeDescription
from ropewalk.search.finalists import closed_form_candidates
from ropewalk.search.journal import Journal
from ropewalk.search.outcome import SearchProgress
from ropewalk.search.plan import SearchPlan, chosen_space
from ropewalk.search.result import SearchResult
from ropewalk.search.search import choose_settings
from ropewalk.search.settings import SearchOptions, SearchSettings
from ropewalk.search.space import SearchSpace, attention_choices, start_token_choices
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.search.workers import SEARCH, VALIDATION
from ropewalk.text.tokens import DocumentSet

CEILING = 0.5  # of the extension ratio; the paper says "lower" and gives no number


@dataclass(frozen=True, kw_only=True)
class Readjusted:
    """The result of readjustment at one length.

    Attributes:
        factors: the entry for this length: the found ones, or the long factors if these are no worse.
        found: the search.
        value, long_value: of the found and of the long factors, on the documents that decide: the validation
            documents, or the search documents if there are none.
    """

    factors: RescaleFactors
    found: SearchResult
    value: float
    long_value: float

    @property
    def is_better(self) -> bool:
        """Whether the found factors are the entry."""
        return self.value < self.long_value


def readjust(
    model: Model,
    documents: DocumentSet,
    *,
    length: int,
    long_factors: RescaleFactors,
    trained_factors: RescaleFactors | None = None,
    ceiling: float = CEILING,
    settings: SearchSettings | None = None,
    validation_documents: DocumentSet | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[SearchProgress], None] | None = None,
    workers: int | WorkerSettings = 1,
    **options: Unpack[SearchOptions],
) -> Readjusted:
    """Search factors for sequences of up to `length` tokens on a model that was extended further.

    Args:
        model: the extended model, trained or not.
        documents, validation_documents: of at least `length` tokens each.
        long_factors: those of the model at its longest.
        trained_factors: those that it was trained with, if it was: an initial candidate, and a finalist.
        ceiling: the largest lambda, in units of the ratio of `long_factors`; at most 1.
        settings: how to search. Its fields may be given as keywords instead.
        workers: as for `search_factors`.

    Raises:
        SettingError: `length` not below the target of `long_factors`, or a setting that has no meaning there.
        RopewalkError: as `search_factors`.
    """
    plan = plan_readjustment(
        model.description, length, long_factors, choose_settings(settings, options),
        trained_factors=trained_factors, ceiling=ceiling,
    )  # fmt: skip
    kept = long_factors.replace(target_length=length)
    which, deciding = (
        (SEARCH, documents) if validation_documents is None else (VALIDATION, validation_documents)
    )
    with plan.open_workers(WorkerSettings.of(workers), model, documents, validation_documents) as pool:
        found = plan.run(
            model, documents, validation_documents=validation_documents, journal=journal, on_trial=on_trial,
            workers=pool,
        )  # fmt: skip
        long_value = plan.objective(model, deciding, pool, which).value_of(kept)
    value = found.deciding_value
    factors = found.factors if value < long_value else kept
    return Readjusted(factors=factors, found=found, value=value, long_value=long_value)


def plan_readjustment(
    description: RopeDescription,
    length: int,
    long_factors: RescaleFactors,
    settings: SearchSettings,
    *,
    trained_factors: RescaleFactors | None = None,
    ceiling: float = CEILING,
) -> SearchPlan:
    """The search of `readjust`.

    Raises:
        SettingError, FactorsError: as `readjust`.
    """
    settings = settings.keeping_attention(long_factors.attention_factor)
    space = short_space(description.geometry, length, long_factors, settings, trained_factors, ceiling)
    return SearchPlan(settings=settings, space=space, closed_forms=closed_form_candidates(space, settings))


def short_space(
    geometry: RopeGeometry,
    length: int,
    long_factors: RescaleFactors,
    settings: SearchSettings,
    trained_factors: RescaleFactors | None = None,
    ceiling: float = CEILING,
) -> SearchSpace:
    """Where readjustment looks.

    Raises:
        SettingError, FactorsError: as `readjust`.
    """
    long_factors.require_geometry(geometry, "the model")
    for factors in filter(None, (long_factors, trained_factors)):
        factors.require_plain("A readjustment")
    if long_factors.per_layer:
        raise SettingError(
            "The long factors differ between layers, but one vector for all is searched: readjust a model "
            "with one vector."
        )
    if not 0 < ceiling <= 1:
        raise SettingError(
            f"The ceiling is {ceiling} of the extension ratio, but readjustment looks at or below what the "
            f"model was extended by: give a number above 0, at most 1."
        )
    _require_meaning(settings, length, geometry.original_length)
    full = SearchSpace(
        geometry=geometry,
        target_length=length,
        ceiling=max(ceiling, 1 / long_factors.extension_ratio),  # lambda 1 is always allowed
        start_tokens=start_token_choices(settings.start_tokens),
        attention_factors=_attention(settings, long_factors),
        long_factors=long_factors,
        trained_factors=trained_factors,
    )
    return chosen_space(settings, full)


def _attention(settings: SearchSettings, long_factors: RescaleFactors) -> tuple[float, ...]:
    settings = settings.keeping_attention(long_factors.attention_factor)
    if settings.attention_factor == "longrope":
        return (long_factors.attention_factor,)
    return attention_choices(settings.attention_factor, long_factors.geometry, long_factors.target_length)


def _require_meaning(settings: SearchSettings, length: int, window: int) -> None:
    if settings.base == "as-is":
        raise SettingError(
            "The base is `as-is`, but readjusted factors replace the long ones: leave the base out."
        )
    if settings.near_window:
        raise SettingError(
            f"near_window is {settings.near_window}, but near-far factors need no readjustment: texts within "
            f"the trained window are read by the base model; leave near_window out."
        )
    if length > window:
        return
    if settings.objective == "tail" or settings.short_weight:
        what = "objective is tail" if settings.objective == "tail" else "short weight is above 0"
        raise SettingError(
            f"The {what}, but {length} tokens lie within the trained window of {window}: readjust with the "
            f"objective perplexity alone."
        )
