"""Ask, evaluate, tell, record, stop: the only loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ropewalk.errors import EvaluationError, RunFolderError, SettingError
from ropewalk.search.journal import Journal, differing
from ropewalk.search.objective import Objective, TrialFailure, attempt
from ropewalk.search.space import Candidate
from ropewalk.search.strategies.base import Strategy
from ropewalk.search.trial import Trial

# The time left is guessed from so many trials, the last ones: machines get busy and idle.
NUM_TIMED = 16

StoppedBy = Literal["budget", "time", "nothing new"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How a search stands after a trial.

    Attributes:
        trial: the one that just ended.
        best: the best so far, None while every trial failed.
        num_trials: trials done, replayed ones included.
        cost, budget: spent and allowed, in forward passes over the whole document set.
        seconds_left: a guess.
    """

    trial: Trial
    best: Trial | None
    num_trials: int
    cost: float
    budget: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        trials: all of them, in order.
        best: the lowest value.
        best_without_start_tokens: the lowest value with n-hat 0; None if each of those failed.
        stopped_by: what ended the search.
    """

    trials: tuple[Trial, ...]
    best: Trial
    best_without_start_tokens: Trial | None
    stopped_by: StoppedBy

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


def run_search(
    strategy: Strategy,
    objective: Objective,
    journal: Journal | None = None,
    *,
    budget: float,
    max_minutes: float | None = None,
    on_trial: Callable[[Progress], None] | None = None,
) -> SearchOutcome:
    """Search until the budget is spent.

    Trials that the journal holds already are told to the strategy again and not computed again. Where
    n-hat is searched, the budget keeps one evaluation for a check: the best lambdas with n-hat 0, unless
    the strategy tried them itself. So every search can say what n-hat is worth.

    Args:
        strategy: at its beginning.
        journal: begun; None to keep no record.
        budget: in forward passes over the whole document set.
        max_minutes: another limit, on the time in evaluations, over all sessions of a run. Where it ends a
            search depends on the machine.
        on_trial: called after each new trial.

    Raises:
        SettingError: the budget does not allow one trial and the check.
        EvaluationError: every trial failed.
        RunFolderError: the journal can't be written, or its trials are not those of this strategy.
    """
    return _Search(strategy, objective, journal, budget, max_minutes, on_trial).run()


class _Search:
    def __init__(
        self,
        strategy: Strategy,
        objective: Objective,
        journal: Journal | None,
        budget: float,
        max_minutes: float | None,
        on_trial: Callable[[Progress], None] | None,
    ) -> None:
        self.strategy = strategy
        self.objective = objective
        self.journal = journal
        self.budget = budget
        self.max_seconds = None if max_minutes is None else 60 * max_minutes
        self.on_trial = on_trial
        self.recorded = list(journal.trials) if journal else []
        self.trials: list[Trial] = []
        self.best: Trial | None = None
        self.cost = 0.0
        self.seconds = 0.0
        self.reserve = objective.cost if strategy.space.searches_start_tokens else 0.0
        if budget < objective.cost + self.reserve:
            raise SettingError(
                f"The budget is {budget:g} evaluations, but one trial"
                f"{' and the check without start tokens' if self.reserve else ''} need "
                f"{objective.cost + self.reserve:g}: give more."
            )

    def run(self) -> SearchOutcome:
        while (stopped_by := self._must_stop()) is None and (candidate := self.strategy.ask()) is not None:
            self.strategy.tell(self._try(candidate, is_check=False))
        self._check_without_start_tokens()
        return self._outcome(stopped_by or "nothing new")

    def _must_stop(self) -> StoppedBy | None:
        if self.cost + self.objective.cost + self.reserve > self.budget:
            return "budget"
        # By the trials' own seconds and not by the clock, so that a replay stops where the run stopped.
        if self.max_seconds is not None and self.seconds >= self.max_seconds:
            return "time"
        return None

    def _try(self, candidate: Candidate, *, is_check: bool) -> Trial:
        index = len(self.trials)
        if index < len(self.recorded):
            trial = self.recorded[index]
            self._require_same(trial, candidate, is_check)
        else:
            trial = self._evaluate(index, candidate, is_check)
            if self.journal is not None:
                self.journal.append(trial, self.strategy.generator_state())
        self.trials.append(trial)
        self.cost += trial.cost
        self.seconds += trial.seconds
        self.best = _best_of([trial] if self.best is None else [self.best, trial])
        if index >= len(self.recorded) and self.on_trial is not None:
            self.on_trial(self._progress(trial))
        return trial

    def _evaluate(self, index: int, candidate: Candidate, is_check: bool) -> Trial:
        start = time.perf_counter()
        value = attempt(self.objective, candidate)
        return Trial(
            index=index,
            candidate=candidate,
            value=None if isinstance(value, TrialFailure) else value,
            failure=value.reason if isinstance(value, TrialFailure) else None,
            seconds=round(time.perf_counter() - start, 6),
            cost=self.objective.cost,
            is_check=is_check,
        )

    def _require_same(self, trial: Trial, candidate: Candidate, is_check: bool) -> None:
        """The journal's trial must be the one that this strategy asks for, drawn from the same generator."""
        assert self.journal is not None
        same_state = self.journal.generator_states[trial.index] == self.strategy.generator_state()
        if (trial.candidate, trial.is_check) == (candidate, is_check) and same_state:
            return
        first, last = self.journal.environments[0], self.journal.environments[-1]
        differences = differing(last, first)
        reason = (
            f"what differs is {'; '.join(differences)} there"
            if differences
            else "settings and versions are the same, so the journal or the code was changed"
        )
        raise RunFolderError(
            f"{self.journal.path}: the search does not ask for trial {trial.index} again as it is written "
            f"there, so it can't go on; {reason}. Restore that, or begin anew in another folder."
        )

    def _check_without_start_tokens(self) -> None:
        if self.best is None:
            return
        twin = self.best.candidate.without_start_tokens()
        if all(trial.candidate != twin for trial in self.trials):
            self._try(twin, is_check=True)

    def _progress(self, trial: Trial) -> Progress:
        timed = self.trials[-NUM_TIMED:]
        seconds_each = sum(t.seconds for t in timed) / len(timed)
        seconds_left = max(0.0, self.budget - self.cost) / self.objective.cost * seconds_each
        if self.max_seconds is not None:
            seconds_left = min(seconds_left, max(0.0, self.max_seconds - self.seconds))
        return Progress(
            trial=trial,
            best=self.best,
            num_trials=len(self.trials),
            cost=self.cost,
            budget=self.budget,
            seconds_left=seconds_left,
        )

    def _outcome(self, stopped_by: StoppedBy) -> SearchOutcome:
        if self.best is None:
            reason = self.trials[0].failure if self.trials else "nothing was tried"
            raise EvaluationError(
                f"All {len(self.trials)} candidates failed (the first: {reason}): check that this model can "
                f"read so many tokens here."
            )
        plain = [trial for trial in self.trials if trial.candidate.num_start_tokens == 0]
        return SearchOutcome(
            trials=tuple(self.trials),
            best=self.best,
            best_without_start_tokens=_best_of(plain),
            stopped_by=stopped_by,
        )


def _best_of(trials: list[Trial]) -> Trial | None:
    return min((trial for trial in trials if trial.value is not None), key=lambda t: t.rank, default=None)
