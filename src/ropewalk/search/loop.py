"""Ask, evaluate, tell, record, stop: the only loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ropewalk.errors import EvaluationError, RunFolderError, SettingError
from ropewalk.search.early_stopping import StopSet
from ropewalk.search.engine_constraints import Probes
from ropewalk.search.evaluation import Measurer
from ropewalk.search.finalists import Choice, ClosedForm, choose
from ropewalk.search.journal import Journal
from ropewalk.search.objective import Objective
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.strategies.base import Strategy
from ropewalk.search.trial import Kind, Query, Trial
from ropewalk.store import differences

# The time left is guessed from so many trials, the last ones: machines get busy and idle.
NUM_TIMED = 16
# What may become the best; the stop set and probes of the free space are measured beside it.
OF_THE_SEARCH: tuple[Kind, ...] = ("trial", "check")
ROUNDING = 1e-9  # of sums of costs

StoppedBy = Literal["budget", "time", "nothing new", "stop set"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How a search stands after a trial.

    Attributes:
        trial: the one that just ended.
        best: the best so far on all search documents, None while there is none.
        num_trials: trials done, replayed ones included.
        cost, budget: spent and allowed, in forward passes over the whole document set. Finalists, which are
            measured when the search has ended, are in neither.
        seconds_left: a guess, with the finalists.
        num_finalists, num_finalists_left: how many were measured, and how many closed forms are left.
    """

    trial: Trial
    best: Trial | None
    num_trials: int
    cost: float
    budget: float
    seconds_left: float
    num_finalists: int = 0
    num_finalists_left: int = 0


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        trials: all of the search, in order; the finalists are in `choice`.
        best: the best searched one: of those that the stop set saw the best there; without a stop set, the
            lowest value on the search documents.
        best_without_start_tokens: the lowest value with n-hat 0; None if each of those failed.
        on_stop_set: the chosen one on the stop set; None without.
        free: the best of the candidates outside the limits of the serving engine, which were tried to tell
            what these cost; None where nothing is limited.
        stopped_by: what ended the search.
        choice: the best searched one beside the closed forms; None where these were not measured.
    """

    trials: tuple[Trial, ...]
    best: Trial
    best_without_start_tokens: Trial | None
    on_stop_set: Trial | None
    free: Trial | None
    stopped_by: StoppedBy
    choice: Choice | None = None

    @property
    def cost(self) -> float:
        return sum(trial.cost for trial in self.trials)

    @property
    def num_failed(self) -> int:
        return sum(trial.value is None for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Spent in evaluations, over all sessions of the run."""
        return sum(trial.seconds for trial in self.trials)


def kept_back(
    evaluation_cost: float, space: SearchSpace, stop_set: StopSet | None, probes: Probes | None
) -> float:
    """What the loop's own trials cost at most: the check of n-hat 0, those on the stop set, the probes."""
    reserve = evaluation_cost if space.searches_start_tokens else 0.0
    if stop_set is not None:
        reserve += stop_set.num_checks * stop_set.cost
    if probes is not None:
        reserve += probes.num_candidates * evaluation_cost
    return reserve


def left_for_strategy(
    budget: float,
    objective: Objective,
    space: SearchSpace,
    stop_set: StopSet | None = None,
    probes: Probes | None = None,
) -> float:
    """A budget less what the loop keeps back for its own trials.

    Raises:
        SettingError: nothing is left for one trial.
    """
    reserve = kept_back(objective.cost, space, stop_set, probes)
    if budget + ROUNDING < objective.cost + reserve:
        raise SettingError(
            f"The budget is {budget:g} evaluations, but one trial{' and the checks' if reserve else ''} need "
            f"{objective.cost + reserve:g}: give more."
        )
    return budget - reserve


def run_search(
    strategy: Strategy,
    objective: Objective,
    journal: Journal | None = None,
    *,
    budget: float,
    max_minutes: float | None = None,
    stop_set: StopSet | None = None,
    probes: Probes | None = None,
    closed_forms: tuple[ClosedForm, ...] = (),
    on_trial: Callable[[Progress], None] | None = None,
) -> SearchOutcome:
    """Search until the budget is spent.

    Trials that the journal holds already are told to the strategy again and not computed again. Beside the
    strategy's trials, the loop makes its own: the best lambdas with n-hat 0, unless the strategy tried them,
    so that every search can say what n-hat is worth; the best so far on the stop set; and the probes.

    Args:
        strategy: at its beginning; its task says what it may spend (`left_for_strategy`).
        journal: begun; None to keep no record.
        budget: of all trials, in forward passes over the whole document set; what progress is measured by.
        max_minutes: another limit, on the time in evaluations, over all sessions of a run. Where it ends a
            search depends on the machine.
        stop_set: ends a search that only fits its documents, and chooses.
        probes: what to try of the free space.
        closed_forms: what is measured beside the best when the search has ended, outside the budget.
        on_trial: called after each new trial.

    Raises:
        EvaluationError: every trial failed.
        RunFolderError: the journal can't be written, or its trials are not those of this strategy.
    """
    search = _Search(
        strategy, objective, journal, budget, max_minutes, stop_set, probes, closed_forms, on_trial
    )
    return search.run()


class _Search:
    def __init__(
        self,
        strategy: Strategy,
        objective: Objective,
        journal: Journal | None,
        budget: float,
        max_minutes: float | None,
        stop_set: StopSet | None,
        probes: Probes | None,
        closed_forms: tuple[ClosedForm, ...],
        on_trial: Callable[[Progress], None] | None,
    ) -> None:
        self.strategy = strategy
        self.objective = objective
        self.measurer = Measurer(objective)
        self.journal = journal
        self.budget = budget
        self.max_seconds = None if max_minutes is None else 60 * max_minutes
        self.stop_set = stop_set
        self.probes = probes
        self.closed_forms = closed_forms
        self.on_trial = on_trial
        self.recorded = list(journal.trials) if journal else []
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.cost = 0.0
        self.seconds = 0.0
        self.spent_by_strategy = 0.0

    def run(self) -> SearchOutcome:
        stopped_by = self._search()
        if self.best is None:
            raise EvaluationError(self._why_nothing())
        if self.stop_set is not None and self.stop_set.is_new(self.best):
            self._check_on(self.stop_set, self.best)
        chosen = self.stop_set.chosen if self.stop_set is not None else None
        best, on_stop_set = chosen or (self.best, None)
        self._check_without_start_tokens(best)
        if chosen is None:
            best = self.best  # the check may be better
        ours = [trial for trial in self.trials if trial.kind in OF_THE_SEARCH]
        plain: Trial | None = best
        if best.candidate.num_start_tokens:
            plain = _best_of([trial for trial in ours if trial.candidate.num_start_tokens == 0])
        free = self._try_free(best)
        choice = self._choose(best, plain) if self.closed_forms else None
        return SearchOutcome(
            best=best,
            best_without_start_tokens=plain,
            on_stop_set=on_stop_set,
            free=free,
            trials=tuple(trial for trial in self.trials if trial.kind != "finalist"),
            stopped_by=stopped_by,
            choice=choice,
        )

    def _search(self) -> StoppedBy:
        """Ask and tell until something ends it."""
        while True:
            # By the trials' own seconds and not by the clock, so that a replay stops where the run stopped.
            if self.max_seconds is not None and self.seconds >= self.max_seconds:
                return "time"
            # No query costs less than one document; without room for one, none is drawn in vain.
            if not self._can_pay(min(self.objective.costs)):
                return "budget"
            query = self.strategy.ask()
            if query is None:
                return "nothing new"
            if not self._can_pay(self.objective.cost_of(query.documents, gradient=query.gradient)):
                return "budget"
            trial = self._try(query, "trial")
            self.spent_by_strategy += trial.cost
            self.strategy.tell(trial)
            if self.stop_set is not None and self.stop_set.is_due(self.best, self.cost):
                assert self.best is not None
                self._check_on(self.stop_set, self.best)
                if self.stop_set.gives_up:
                    return "stop set"

    def _why_nothing(self) -> str:
        """Why no trial can be the best, in one line."""
        failures = [trial.failure for trial in self.trials if trial.failure is not None]
        if not failures:
            return (
                f"No candidate was read on all documents in {len(self.trials)} trials: give more budget, or "
                f"another strategy."
            )
        return (
            f"All {len(self.trials)} candidates failed (the first: {failures[0]}): check that this model can "
            f"read so many tokens here."
        )

    def _can_pay(self, cost: float) -> bool:
        return self.spent_by_strategy + cost <= self.strategy.task.budget + ROUNDING

    def _try(self, query: Query, kind: Kind) -> Trial:
        index = len(self.trials)
        if index < len(self.recorded):
            self._require_same(self.recorded[index], query, kind)
        if index < len(self.recorded):  # it may have been cut off just now
            trial = self.recorded[index]
        else:
            trial = self._evaluate(index, query, kind)
            if self.journal is not None:
                self.journal.append(trial, self.strategy.generator_state())
        self.trials.append(trial)
        if kind != "finalist":
            self.cost += trial.cost
            self.seconds += trial.seconds
        if kind in OF_THE_SEARCH:
            self.best = _best_of([trial] if self.best is None else [self.best, trial])
        if index >= len(self.recorded) and self.on_trial is not None:
            self.on_trial(self._progress(trial))
        return trial

    def _evaluate(self, index: int, query: Query, kind: Kind) -> Trial:
        start = time.perf_counter()
        stop_set = self._stop_set_for(kind)
        measured = self._measurer_for(kind).measure(query)
        return Trial(
            index=index,
            candidate=query.candidate,
            kind=kind,
            value=measured.value,
            failure=measured.failure,
            seconds=round(time.perf_counter() - start, 6),
            cost=measured.cost if stop_set is None else stop_set.cost,
            documents=measured.documents,
            parts=measured.parts,
            gradient=measured.gradient,
        )

    def _stop_set_for(self, kind: Kind) -> StopSet | None:
        """The stop set where this kind of trial is measured on it."""
        return self.stop_set if kind in ("stop", "finalist") else None

    def _measurer_for(self, kind: Kind) -> Measurer:
        stop_set = self._stop_set_for(kind)
        return self.measurer if stop_set is None else Measurer(stop_set.objective)

    def _require_same(self, trial: Trial, query: Query, kind: Kind) -> None:
        """The journal's trial must be the one that this strategy asks for, drawn from the same generator.

        Where it is not, and no other environment explains it, the journal may be cut there.
        """
        assert self.journal is not None
        same_state = self.journal.generator_states[trial.index] == self.strategy.generator_state()
        same_candidate = (trial.candidate, trial.kind) == (query.candidate, kind)
        could_be = self._measurer_for(kind).could_be(trial)
        if same_candidate and same_state and could_be and _answers(trial, query):
            return
        first, last = self.journal.environments[0], self.journal.environments[-1]
        changes = differences(last, first)
        if not changes and self.journal.cut_damaged:
            self.journal.cut(trial.index)
            del self.recorded[trial.index :]
            return
        reason = (
            f"what differs is {'; '.join(changes)} there"
            if changes
            else "settings and versions are the same, so the journal or the code was changed: --cut-damaged "
            "cuts the journal off there"
        )
        raise RunFolderError(
            f"{self.journal.path}: the search does not ask for trial {trial.index} again as it is written "
            f"there, so it can't go on; {reason}. Restore that, or begin anew in another folder."
        )

    def _check_on(self, stop_set: StopSet, best: Trial) -> None:
        checked = self._try(Query(candidate=best.candidate), "stop")
        stop_set.take_note(best, checked, self.cost)

    def _check_without_start_tokens(self, best: Trial) -> None:
        twin = best.candidate.without_start_tokens()
        tried = [t for t in self.trials if t.kind in OF_THE_SEARCH and t.documents is None]
        if all(trial.candidate != twin for trial in tried):
            self._try(Query(candidate=twin), "check")

    def _try_free(self, best: Trial) -> Trial | None:
        if self.probes is None:
            return None
        return _best_of(
            [self._try(Query(candidate=one), "free") for one in self.probes.candidates(best.candidate)]
        )

    def _choose(self, best: Trial, plain: Trial | None) -> Choice:
        """The closed forms beside the best, on the stop set if there is one."""

        def measure(candidate: Candidate) -> Trial:
            return self._try(Query(candidate=candidate), "finalist")

        if self.stop_set is None:
            return choose(self.closed_forms, best, plain, measure, "search")
        known = {trial.candidate: trial for trial in self.trials if trial.kind == "stop"}
        searched = known.get(best.candidate) or measure(best.candidate)
        if plain is not None:
            same = plain.candidate == best.candidate
            plain = searched if same else known.get(plain.candidate) or measure(plain.candidate)
        return choose(self.closed_forms, searched, plain, measure, "stop")

    def _progress(self, trial: Trial) -> Progress:
        timed = self.trials[-NUM_TIMED:]
        seconds_each = sum(t.seconds for t in timed) / max(sum(t.cost for t in timed), ROUNDING)
        num_finalists = sum(t.kind == "finalist" for t in self.trials)
        finalists_left = max(0, len(self.closed_forms) - num_finalists)
        seconds_left = 0.0
        if not num_finalists:
            seconds_left = max(0.0, self.budget - self.cost) * seconds_each
            if self.max_seconds is not None:
                seconds_left = min(seconds_left, max(0.0, self.max_seconds - self.seconds))
        cost_of_one = self.objective.cost if self.stop_set is None else self.stop_set.cost
        return Progress(
            trial=trial,
            best=self.best,
            num_trials=len(self.trials) - num_finalists,
            cost=self.cost,
            budget=self.budget,
            seconds_left=seconds_left + finalists_left * cost_of_one * seconds_each,
            num_finalists=num_finalists,
            num_finalists_left=finalists_left,
        )


def _answers(trial: Trial, query: Query) -> bool:
    """Whether a trial is of the documents that were asked for, and with the gradient if that was."""
    has_gradient = trial.gradient is not None
    return trial.documents == query.documents and (trial.value is None or has_gradient == query.gradient)


def _best_of(trials: list[Trial]) -> Trial | None:
    """The lowest value of all search documents; no other can be compared."""
    return min((trial for trial in trials if trial.is_complete), key=lambda t: t.rank, default=None)
