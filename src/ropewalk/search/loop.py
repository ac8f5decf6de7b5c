"""SearchLoop: ask the strategy, evaluate, record, tell the strategy, stop. All searches run through it."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace

from ropewalk.errors import EvaluationError
from ropewalk.search.budget import ROUNDING
from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.evaluation import Evaluator
from ropewalk.search.finalists import Choice, ClosedForm, DecidedBy, Finalist, choose
from ropewalk.search.journal import Journal
from ropewalk.search.meter import Kept
from ropewalk.search.objective import Objective
from ropewalk.search.outcome import SearchOutcome, SearchProgress, StoppedBy
from ropewalk.search.renewal import Renewal, TrustRegion, distance
from ropewalk.search.replay import Replay
from ropewalk.search.space import Candidate
from ropewalk.search.strategies.base import Strategy
from ropewalk.search.trial import OF_THE_SEARCH, Query, Trial, TrialKind

AFTER_THE_SEARCH: tuple[TrialKind, ...] = ("screen", "finalist")
NUM_SCREENED = 2  # closed forms that are read in full, of all that kept keys judged
NEIGHBOURS = 0.05  # the largest distance of candidates that count as one
NUM_TIMED = 16  # the last trials, from which the remaining time is estimated: a machine's load changes


@dataclass
class SearchLoop:
    """A search until its budget is spent; it runs once.

    Recorded trials go to the strategy and are not evaluated again. Besides the strategy's trials, the loop
    makes its own: the best factors with n-hat 0, unless the strategy tried them, so that every search reports
    what n-hat gains; the best candidate on the validation documents; and the unconstrained candidates.

    Attributes:
        strategy: at its start; its task says what it may spend (`budget.strategy_budget`).
        journal: begun; None to keep no record.
        budget: of all trials, in forward passes over all search documents; progress is relative to it.
        max_minutes: a limit on the time of all evaluations, over all sessions of a run. The trial at which it
            stops a search depends on the machine.
        early_stopping: stops a search that only fits its documents, and takes the best candidate.
        unconstrained: candidates to try beyond the engine's constraints.
        closed_forms: compared with the best candidate after the search, outside the budget.
        region: documents are judged from kept keys; None reads each in full for each trial. What decides in
            the end is read in full in any case.
        on_trial: called after each new trial.
    """

    strategy: Strategy
    objective: Objective
    journal: Journal | None = None
    _: KW_ONLY
    budget: float
    max_minutes: float | None = None
    early_stopping: EarlyStopping | None = None
    unconstrained: UnconstrainedCandidates | None = None
    closed_forms: tuple[ClosedForm, ...] = ()
    region: TrustRegion | None = None
    on_trial: Callable[[SearchProgress], None] | None = None
    trials: list[Trial] = field(default_factory=list, init=False)
    best: Trial | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._replay = Replay(self.journal)
        self._evaluator = Evaluator(self.objective, self.region)
        self._deciding = self.early_stopping.objective if self.early_stopping else self.objective
        # A closed form is first judged from the keys that the last check of the search has kept.
        self._screening_region = TrustRegion(budget=0.0)
        self._screening = Evaluator(self._deciding, self._screening_region)
        self._cost = 0.0
        self._seconds = 0.0
        self._strategy_cost = 0.0
        self._last_kept: Candidate | None = None  # on the documents that decide

    def run(self) -> SearchOutcome:
        """Search.

        Raises:
            EvaluationError: every trial failed.
            RunFolderError: the journal can't be written, or its trials are not those of this strategy.
        """
        stopped_by = self._follow_strategy()
        if self.best is None:
            raise self._nothing_found()
        if self.early_stopping is not None and self.early_stopping.is_new(self.best):
            self._validate(self.early_stopping, self.best)
        runner_up = None if self.region is None else self._runner_up(self.best)
        if self.early_stopping is not None and runner_up is not None:
            self._validate(self.early_stopping, runner_up)
        validated = self.early_stopping.best if self.early_stopping is not None else None
        best, on_validation = validated or (self.best, None)
        self._try_without_start_tokens(best)
        if validated is None:
            best = self.best  # that trial may be better
        plain = self._best_without_start_tokens(best)
        unconstrained = self._try_unconstrained(best)
        choice = self._choose(best, plain) if self.closed_forms else None
        return SearchOutcome(
            trials=tuple(trial for trial in self.trials if trial.kind not in AFTER_THE_SEARCH),
            best=best,
            best_without_start_tokens=plain,
            on_validation=on_validation,
            unconstrained=unconstrained,
            stopped_by=stopped_by,
            choice=choice,
        )

    def _follow_strategy(self) -> StoppedBy:
        """Ask and tell until something stops the search."""
        max_seconds = None if self.max_minutes is None else 60 * self.max_minutes
        while True:
            # The trials' own seconds and not the clock, so that a replay stops where the run stopped.
            if max_seconds is not None and self._seconds >= max_seconds:
                return "time"
            # No query costs less than one document; if that can't be paid, none is drawn.
            if not self._can_pay(min(self.objective.costs)):
                return "budget"
            query = self.strategy.ask()
            if query is None:
                return "nothing new"
            if not self._can_pay(self._cost_of(query)):
                return "budget"
            trial = self._try(query, "trial", self._ahead(query))
            self._strategy_cost += trial.cost
            self.strategy.tell(trial)
            if self.early_stopping is not None and self.early_stopping.is_due(self.best, self._cost):
                assert self.best is not None
                self._validate(self.early_stopping, self.best)
                if self.early_stopping.should_stop:
                    return "stop set"

    def _can_pay(self, cost: float) -> bool:
        return self._strategy_cost + cost <= self.strategy.task.budget + ROUNDING

    def _ahead(self, query: Query) -> Iterator[Query]:
        """The strategy's queries after this one that are known, and that the budget pays for."""
        cost = self._cost_of(query)
        for later in self.strategy.ask_ahead():
            cost += self._cost_of(later)
            if not self._can_pay(cost):
                return
            yield later

    def _cost_of(self, query: Query) -> float:
        return self.objective.cost_of(query.documents, gradient=query.gradient)

    def _try(self, query: Query, kind: TrialKind, ahead: Iterable[Query] = ()) -> Trial:
        """The recorded trial, or a new one, which is recorded."""
        index, state = len(self.trials), self.strategy.generator_state()
        evaluator = self._evaluator_of(kind)
        recorded = self._replay.trial(index, query, kind, state, evaluator)
        best = None if self.best is None else self.best.candidate
        if kind == "screen":
            best = self._last_kept or best
        if recorded is None:
            trial = self._evaluate(index, query, kind, best, ahead)
        else:
            trial = recorded
            evaluator.replay(query, trial.renewal, best)
        if recorded is None and self.journal is not None:
            self.journal.append(trial, state)
        if query.keep and trial.value is not None:
            self._record_kept(query.candidate)
        self.trials.append(trial)
        if kind not in AFTER_THE_SEARCH:
            self._cost += trial.total_cost
            self._seconds += trial.seconds
        if kind in OF_THE_SEARCH:
            self.best = best_of([trial] if self.best is None else [self.best, trial])
        if recorded is None and self.on_trial is not None:
            self.on_trial(self._progress(trial))
        return trial

    def _evaluate(
        self, index: int, query: Query, kind: TrialKind, best: Candidate | None, ahead: Iterable[Query]
    ) -> Trial:
        start = time.perf_counter()
        made = self._evaluator_of(kind).evaluate(query, best, ahead)
        share = self._share_of_search(kind)
        return Trial(
            index=index,
            candidate=query.candidate,
            kind=kind,
            value=made.value,
            failure=made.failure,
            seconds=round(time.perf_counter() - start, 6),
            cost=made.cost * share,
            documents=made.documents,
            parts=made.parts,
            gradient=made.gradient,
            renewal=made.renewal and replace(made.renewal, cost=made.renewal.cost * share),
        )

    def _record_kept(self, candidate: Candidate) -> None:
        """Closed forms are judged from the keys of the documents that decide, read under this candidate."""
        self._last_kept = candidate
        documents = tuple(range(self._deciding.num_documents))
        kept = Kept(factors=self._deciding.factors(candidate))
        self._screening_region.record(Renewal(documents=documents, cost=0.0), candidate, kept)

    def _evaluator_of(self, kind: TrialKind) -> Evaluator:
        """On the documents that decide for the kinds of trial that decide."""
        if kind == "screen":
            return self._screening
        return Evaluator(self._deciding) if kind in ("stop", "finalist") else self._evaluator

    def _share_of_search(self, kind: TrialKind) -> float:
        """What a forward pass over the documents of a trial costs, in those over the search documents."""
        if kind in OF_THE_SEARCH or kind == "free":
            return 1.0
        return self._deciding.num_documents / self.objective.num_documents

    def _validate(self, early_stopping: EarlyStopping, best: Trial) -> None:
        checked = self._try(Query(candidate=best.candidate, keep=self.region is not None), "stop")
        early_stopping.record(best, checked, self._cost)

    def _runner_up(self, best: Trial) -> Trial | None:
        """The best trial that is no neighbour of the best one, and has not been checked."""
        others = [
            trial
            for trial in self.trials
            if trial.kind in OF_THE_SEARCH and distance(trial.candidate, best.candidate) > NEIGHBOURS
        ]
        found = best_of(others)
        is_new = found is not None and (self.early_stopping is None or self.early_stopping.is_new(found))
        return found if is_new else None

    def _try_without_start_tokens(self, best: Trial) -> None:
        plain = best.candidate.without_start_tokens()
        tried = [t for t in self.trials if t.kind in OF_THE_SEARCH and t.documents is None]
        if all(trial.candidate != plain for trial in tried):
            self._try(Query(candidate=plain), "check")

    def _best_without_start_tokens(self, best: Trial) -> Trial | None:
        if not best.candidate.num_start_tokens:
            return best
        searched = [trial for trial in self.trials if trial.kind in OF_THE_SEARCH]
        return best_of([trial for trial in searched if trial.candidate.num_start_tokens == 0])

    def _try_unconstrained(self, best: Trial) -> Trial | None:
        if self.unconstrained is None:
            return None
        candidates = self.unconstrained.candidates(best.candidate)
        return best_of([self._try(Query(candidate=candidate), "free") for candidate in candidates])

    def _choose(self, best: Trial, plain: Trial | None) -> Choice:
        """Compares the closed forms with the best candidate, on the validation documents if there are any."""

        def measure(candidate: Candidate) -> Trial:
            return self._try(Query(candidate=candidate), "finalist")

        forms = self.closed_forms
        decided_by: DecidedBy = "search" if self.early_stopping is None else "stop"
        searched, searched_plain = self._as_decided(best, keep=self.region is not None), plain
        if plain is not None:
            same = plain.candidate == best.candidate
            searched_plain = searched if same else self._as_decided(plain, keep=False)
        judged = []
        if self.region is not None:
            judged = [(form, self._try(Query(candidate=form.candidate), "screen")) for form in forms]
            ranked = [form for form, _ in sorted(judged, key=lambda one: one[1].rank)]
            forms = (*ranked[:NUM_SCREENED], *(form for form in ranked[NUM_SCREENED:] if form.is_trained))
        num_scored = self._deciding.readings.num_scored(range(self._deciding.num_documents))
        return choose(
            forms,
            searched,
            searched_plain,
            measure,
            decided_by,
            num_scored=num_scored,
            screened=tuple(Finalist(label=form.label, trial=trial) for form, trial in judged),
        )

    def _as_decided(self, trial: Trial, *, keep: bool) -> Trial:
        """The trial of the candidate on the documents that decide, read in full; `keep` as in `Query`."""
        if self.early_stopping is None and self.region is None:
            return trial
        known = {other.candidate: other for other in self.trials if other.kind in ("stop", "finalist")}
        if trial.candidate in known:
            return known[trial.candidate]
        return self._try(Query(candidate=trial.candidate, keep=keep), "finalist")

    def _progress(self, trial: Trial) -> SearchProgress:
        timed = self.trials[-NUM_TIMED:]
        seconds_each = sum(t.seconds for t in timed) / max(sum(t.total_cost for t in timed), ROUNDING)
        num_finalists = sum(t.kind in AFTER_THE_SEARCH for t in self.trials)
        left = self._costs_after_the_search()[num_finalists:]
        seconds_left = 0.0
        if not num_finalists:
            seconds_left = max(0.0, self.budget - self._cost) * seconds_each
            if self.max_minutes is not None:
                seconds_left = min(seconds_left, max(0.0, 60 * self.max_minutes - self._seconds))
        return SearchProgress(
            trial=trial,
            best=self.best,
            num_trials=len(self.trials) - num_finalists,
            cost=self._cost,
            budget=self.budget,
            seconds_left=seconds_left + sum(left) * seconds_each,
            num_finalists=num_finalists,
            num_finalists_left=len(left),
        )

    def _costs_after_the_search(self) -> list[float]:
        """What the trials that compare closed forms cost, one after another."""
        share = self._share_of_search("finalist")
        in_full, num_forms = share * sum(self._deciding.full_costs), len(self.closed_forms)
        if self.region is None:
            return [in_full] * num_forms
        screened = [share * sum(self._deciding.kept_costs)] * num_forms
        keeps = [in_full] if self.early_stopping is None else []  # else the last check has kept the keys
        num_read = NUM_SCREENED + any(form.is_trained for form in self.closed_forms)
        return keeps + screened + [in_full] * min(num_read, num_forms)

    def _nothing_found(self) -> EvaluationError:
        """Why no trial can be the best."""
        failures = [trial.failure for trial in self.trials if trial.failure is not None]
        if not failures:
            return EvaluationError(
                f"No candidate was evaluated on all documents in {len(self.trials)} trials: give more "
                f"budget, or another strategy."
            )
        return EvaluationError(
            f"All {len(self.trials)} candidates failed (the first: {failures[0]}): check that this machine "
            f"can run the model at the target length."
        )


def best_of(trials: list[Trial]) -> Trial | None:
    """The lowest value on all search documents; values on some of them can't be compared."""
    return min((trial for trial in trials if trial.is_complete), key=lambda t: t.rank, default=None)
