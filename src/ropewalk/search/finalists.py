"""Finalists: compares the closed-form schemes with the best searched candidate, and chooses the result.

A search may find nothing better than a closed-form scheme, which costs nothing. Its own values do not show
that, because they are those of the search documents. So the last step evaluates every closed-form scheme with
the search's objective on the validation documents, and the lowest value there is the result. Without
validation documents the search documents decide, which favours searched candidates.

A model that was trained with factors may need no others: a second search and readjustment compare the factors
of the training in the same way.

An objective of several terms (the text, answers about facts) must not buy one with another: a searched
candidate that is worse than the best closed form in any term, by more than the limit, is not the result.

A search of near-far factors compares the closed forms of its near windows too.

An engine must be able to run a closed form like a searched candidate. It has n-hat 0. Where the attention
factor is searched, a scheme has its published one. Where the search keeps one attention factor, the scheme is
measured with that one. The best of them, and the scaling in the model's configuration, are measured with
their published attention factor too, to show what that limit costs.

These measurements are not in the budget: otherwise every further scheme would leave less of it to the
strategy, and so change the result. They are in the journal like every trial.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.schemes import CLOSED_FORMS, scheme_factors
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import DECIMALS, Candidate, SearchSpace
from ropewalk.search.strategies.initial_candidates import near_far_schemes
from ropewalk.search.trial import Trial

DecidedBy = Literal["stop", "search"]
TRAINED = "trained factors"
# By how much a searched candidate may be worse than the best closed form in one term, nats per token. Answers
# are few tokens, so that their means differ more by chance.
LIMITS: Mapping[str, float] = {"perplexity": 0.002}
OTHER_LIMIT = 0.05


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    """A closed-form scheme as a candidate.

    Attributes:
        label: as `parse_scheme` reads it, `own TYPE` for the scaling in the model's configuration, or
            `TRAINED` for the factors of the training.
        published: with the scheme's own attention factor, where `candidate` has another; else None.
        published_label: its label.
        is_own: whether it is the scaling in the model's configuration.
        is_trained: whether it is the factors that the model was trained with.
    """

    label: str
    candidate: Candidate
    published: Candidate | None = None
    published_label: str = ""
    is_own: bool = False
    is_trained: bool = False


def closed_form_candidates(
    space: SearchSpace, settings: SearchSettings, own: RescaleFactors | None = None
) -> tuple[ClosedForm, ...]:
    """The factors of the training, if the space has some, and every closed-form scheme, as candidates that
    may be written; those that coincide come once.

    Args:
        own: the scaling in the model's configuration, where the search replaces it.
    """
    attention_factor = _attention_factor(space, settings)
    labels = (*CLOSED_FORMS, *(near_far_schemes(space) if space.is_near_far else ()))
    schemes = {label: scheme_factors(label, space.geometry, space.target_length) for label in labels}
    forms = [
        _with_attention_factor(attention_factor, label, _as_candidate(factors))
        for label, factors in schemes.items()
    ]
    trained = space.trained_factors
    if trained is not None and not trained.per_layer:
        form = _with_attention_factor(attention_factor, TRAINED, _as_candidate(trained))
        forms.insert(0, dataclasses.replace(form, is_trained=True))  # of equal candidates the first stays
    if own is not None and not own.per_layer:
        form = _with_attention_factor(attention_factor, own.provenance.strategy or "own", _as_candidate(own))
        forms.append(dataclasses.replace(form, is_own=True))
    first: dict[Candidate, ClosedForm] = {}
    for form in forms:
        first.setdefault(form.candidate, form)
    return tuple(first.values())


def _attention_factor(space: SearchSpace, settings: SearchSettings) -> float | None:
    """The attention factor that a finalist must have; None where a scheme may keep its own.

    It must have the one that the search keeps, because the caller chose it, or the long factors have it
    (readjustment). Where it is searched, and where the reference strategies keep it at 1 as the paper does,
    a scheme may have any.
    """
    if space.searches_attention or (settings.keeps_attention and space.long_factors is None):
        return None
    return space.attention_factors[0]


def _as_candidate(factors: RescaleFactors) -> Candidate:
    """On clean decimals, so that a journal can be resumed where logarithms differ in their last bit."""
    return Candidate(
        rescale_factors=tuple(round(value, DECIMALS) for value in factors.rescale_factors[0]),
        num_start_tokens=0,
        attention_factor=round(factors.attention_factor, DECIMALS),
        near_window=factors.near_window,
        near_attention_factor=round(factors.near_attention_factor, DECIMALS),
    )


def _with_attention_factor(attention_factor: float | None, label: str, published: Candidate) -> ClosedForm:
    if attention_factor is None or abs(published.attention_factor - attention_factor) < 10**-DECIMALS:
        return ClosedForm(label=label, candidate=published)
    near = attention_factor if published.near_window else 1.0
    plain = label.removesuffix(":attention_factor=1")
    return ClosedForm(
        label=f"{plain}:attention_factor={attention_factor:.6g}",
        candidate=dataclasses.replace(
            published, attention_factor=attention_factor, near_attention_factor=near
        ),
        published=published,
        published_label=label,
    )


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A closed form as measured on the documents that decide; `is_own`, `is_trained` as in `ClosedForm`."""

    label: str
    trial: Trial
    is_own: bool = False
    is_trained: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was compared in the end, and what is written.

    Attributes:
        decided_by: `stop` (the validation documents), or `search` where there are none.
        searched: the best searched candidate on these documents.
        searched_plain: the best searched candidate with n-hat 0 there; None if none could be measured.
        closed_forms: those that may be written.
        published: with their published attention factor, so that they may not be written: the best of them,
            and the scaling in the model's configuration.
        num_scored: the tokens of each term on these documents.
        screened: every closed form as judged from kept keys, where only the best of them were read in full.
    """

    decided_by: DecidedBy
    searched: Trial
    searched_plain: Trial | None
    closed_forms: tuple[Finalist, ...]
    published: tuple[Finalist, ...] = ()
    num_scored: Mapping[str, int] = field(default_factory=dict)
    screened: tuple[Finalist, ...] = ()

    @property
    def num_compared(self) -> int:
        """How many closed forms were compared."""
        return max(len(self.closed_forms), len(self.screened))

    @property
    def best_closed_form(self) -> Finalist | None:
        """The closed form of the lowest value; None if each failed."""
        return _lowest(self.closed_forms)

    @property
    def closed_form(self) -> Finalist | None:
        """The closed form that is written; None where the best searched candidate is, as in a tie."""
        return self._better_than(self.searched)

    @property
    def closed_form_plain(self) -> Finalist | None:
        """The closed form that is written as the best with n-hat 0; None where a searched candidate is."""
        return self._better_than(self.searched_plain)

    @property
    def cost(self) -> float:
        """Of these measurements, in forward passes over the search documents; it is not in the budget."""
        return sum(trial.total_cost for trial in self._trials)

    @property
    def seconds(self) -> float:
        """Spent in these measurements, over all sessions of the run."""
        return sum(trial.seconds for trial in self._trials)

    @property
    def _trials(self) -> list[Trial]:
        """Those that were made for this choice."""
        of_searched = {t.index: t for t in (self.searched, self.searched_plain) if t is not None}
        made = [trial for trial in of_searched.values() if trial.kind == "finalist"]
        return made + [one.trial for one in (*self.closed_forms, *self.published, *self.screened)]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        best, written = self.best_closed_form, self.closed_form
        return {
            "documents": self.decided_by,
            "written": None if written is None else written.label,
            "searched": self.searched.value,
            "best_closed_form": None if best is None else best.label,
            "closed_forms": {one.label: one.trial.value for one in self.closed_forms},
            "cost": self.cost,
            "published": {one.label: one.trial.value for one in self.published},
            "screened": {one.label: one.trial.value for one in self.screened},
            "terms": {
                label: self.mean_nats(trial)
                for label, trial in (
                    ("searched", self.searched),
                    *((one.label, one.trial) for one in self.closed_forms),
                )
            },
        }

    def mean_nats(self, trial: Trial) -> dict[str, float]:
        """The nats per token of each term on the documents that decide; empty if the trial failed."""
        return {name: math.fsum(nats) / self.num_scored[name] for name, nats in trial.parts.items()}

    def worse_terms(self, searched: Trial) -> list[str]:
        """The terms in which a candidate is worse than the best closed form, beyond the limit."""
        best = self.best_closed_form
        if best is None:
            return []
        ours, theirs = self.mean_nats(searched), self.mean_nats(best.trial)
        if len(ours) < 2:
            return []
        limits = {name: LIMITS.get(name, OTHER_LIMIT) for name in ours}
        return [name for name, nats in ours.items() if nats > theirs[name] + limits[name]]

    def _better_than(self, searched: Trial | None) -> Finalist | None:
        best = self.best_closed_form
        if best is None or best.trial.value is None:
            return None
        is_better = searched is None or searched.value is None or best.trial.value < searched.value
        return best if is_better or (searched is not None and self.worse_terms(searched)) else None


def choose(
    forms: tuple[ClosedForm, ...],
    searched: Trial,
    plain: Trial | None,
    measure: Callable[[Candidate], Trial],
    decided_by: DecidedBy,
    *,
    num_scored: Mapping[str, int],
    screened: tuple[Finalist, ...] = (),
) -> Choice:
    """Measure the closed forms on the documents that decide.

    Args:
        searched, plain: the best searched candidates, measured on these documents.
        measure: maps a candidate to its trial on these documents.
        num_scored, screened: as in `Choice`.
    """
    measured = tuple(
        Finalist(
            label=form.label, trial=measure(form.candidate), is_own=form.is_own, is_trained=form.is_trained
        )
        for form in forms
    )
    best = _lowest(measured)
    published = tuple(
        Finalist(
            label=form.published_label,
            trial=measure(form.published),
            is_own=form.is_own,
            is_trained=form.is_trained,
        )
        for form in forms
        if form.published is not None and (form.is_own or (best is not None and form.label == best.label))
    )
    return Choice(
        decided_by=decided_by, searched=searched, searched_plain=plain, closed_forms=measured,
        published=published, num_scored=num_scored, screened=screened,
    )  # fmt: skip


def _lowest(finalists: tuple[Finalist, ...]) -> Finalist | None:
    known = [one for one in finalists if one.trial.value is not None]
    return min(known, key=lambda one: one.trial.rank, default=None)
