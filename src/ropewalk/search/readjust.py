"""Readjustment: an extended model searched once more at a short length, where less interpolation serves.

LongRoPE (arXiv 2402.13753, Sec. 3.3) searches the extended model again at 4k and at 8k, with a lower ceiling
for lambda, and reads shorter inputs with what it finds. It is the same search on another model and length.
Three things differ here from a search that extends:

    bounds      lambda from 1, each pair's own frequency, to `ceiling` times the ratio that the model was
                extended by. The ratio at the short length says nothing: within the trained window it is
                below 1, though a tuned model may have unlearnt its first frequencies
    starts      the factors of the long length, and those that the model was tuned with, as well as the closed
                forms, which leave every pair alone within the window
    attention   that of the long length, unless the user says otherwise: engines that switch between two sets
                of factors multiply both by one number

What the search finds, or the closed form that is better on the stop documents, must have a lower value than
the long factors themselves at the short length, on documents that the search did not follow where there are
any; else the long ones are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import SettingError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.search.finalists import closed_form_candidates
from ropewalk.search.journal import Journal
from ropewalk.search.loop import Progress
from ropewalk.search.named_spaces import make_space
from ropewalk.search.result import SearchResult
from ropewalk.search.search import choose_beside, make_objective, search_in
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import SearchSpace, attention_choices, start_token_choices
from ropewalk.text.tokens import DocumentSet

CEILING = 0.5  # of the extension ratio; the paper says "lower" and gives no number


@dataclass(frozen=True, kw_only=True)
class Readjusted:
    """What readjustment at one length gives back.

    Attributes:
        factors: the entry for this length: what was found, or the long factors where they are no worse.
        found: the search.
        value, longer_value: of what was found and of the long factors, on the documents that decide: the
            stop documents, or without them the search documents.
    """

    factors: RescaleFactors
    found: SearchResult
    value: float
    longer_value: float

    @property
    def is_better(self) -> bool:
        """Whether what was found is the entry."""
        return self.value < self.longer_value


def readjust(
    loaded: Model,
    documents: DocumentSet,
    *,
    length: int,
    longer: RescaleFactors,
    tuned_with: RescaleFactors | None = None,
    ceiling: float = CEILING,
    stop_documents: DocumentSet | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> Readjusted:
    """Search factors for sequences of up to `length` tokens on a model that was extended further.

    Args:
        loaded: the extended model, tuned or not.
        documents, stop_documents: of at least `length` tokens each.
        longer: what the model turns by at its longest.
        tuned_with: what it was tuned with, if it was: a place to start from.
        ceiling: the largest lambda, in units of the ratio of `longer`; at most 1.
        settings: fields of `SearchSettings`.

    Raises:
        SettingError: `length` not below the target of `longer`, or a setting that has no meaning there.
        RopewalkError: else as `search_factors`.
    """
    chosen = choose_beside(longer, settings)
    space = short_space(loaded, length, longer, ceiling, chosen, tuned_with)
    found = search_in(
        loaded, documents, space=space, chosen=chosen, stop_documents=stop_documents, journal=journal,
        on_trial=on_trial, closed_forms=closed_form_candidates(space, chosen),
    )  # fmt: skip
    kept = longer.replace(target_length=length)
    deciding = documents if stop_documents is None else stop_documents
    longer_value = make_objective(loaded, deciding, space, chosen).value_of(kept)
    value = found.deciding_value
    factors = found.factors if value < longer_value else kept
    return Readjusted(factors=factors, found=found, value=value, longer_value=longer_value)


def short_space(
    loaded: Model,
    length: int,
    longer: RescaleFactors,
    ceiling: float,
    chosen: SearchSettings,
    tuned_with: RescaleFactors | None = None,
) -> SearchSpace:
    """Where readjustment looks.

    Raises:
        SettingError, FactorsError: as `readjust`.
    """
    longer.require_geometry(loaded.geometry, loaded.name)
    if longer.per_layer:
        raise SettingError(
            "The long factors differ between layers, but one vector for all is searched: readjust a model "
            "with one vector."
        )
    if not 0 < ceiling <= 1:
        raise SettingError(
            f"The ceiling is {ceiling} of the extension ratio, but readjustment looks at or below what the "
            f"model was extended by: give a number above 0, at most 1."
        )
    _require_meaning(chosen, length, loaded.geometry.original_length)
    full = SearchSpace(
        geometry=loaded.geometry,
        target_length=length,
        ceiling=max(ceiling, 1 / longer.extension_ratio),  # lambda 1 is always allowed
        start_tokens=start_token_choices(chosen.start_tokens),
        attention_factors=_attention(chosen, longer),
        longer=longer,
        tuned_with=tuned_with,
    )
    return make_space(
        chosen.space, full, num_knots=chosen.num_knots, critical_pair=chosen.critical_pair,
        monotone=chosen.monotone,
    )  # fmt: skip


def _attention(chosen: SearchSettings, longer: RescaleFactors) -> tuple[float, ...]:
    if chosen.attention_factor == "longrope":
        return (longer.attention_factor,)
    return attention_choices(chosen.attention_factor, longer.geometry, longer.target_length)


def _require_meaning(chosen: SearchSettings, length: int, window: int) -> None:
    if chosen.base == "as-is":
        raise SettingError(
            "The base is `as-is`, but readjusted factors replace the long ones: leave the base out."
        )
    if length > window:
        return
    if chosen.objective == "tail" or chosen.short_weight:
        what = "objective is tail" if chosen.objective == "tail" else "short weight is above 0"
        raise SettingError(
            f"The {what}, but {length} tokens lie within the trained window of {window}: readjust with the "
            f"objective perplexity alone."
        )
