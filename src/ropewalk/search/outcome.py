"""SearchProgress and SearchOutcome: the progress of a search after each trial, and its result."""

from dataclasses import dataclass
from typing import Literal

from ropewalk.search.finalists import Choice
from ropewalk.search.trial import Trial

StoppedBy = Literal["budget", "time", "nothing new", "stop set"]  # the last: early stopping


@dataclass(frozen=True, kw_only=True)
class SearchProgress:
    """The progress of a search after a trial.

    Attributes:
        trial: the one that just ended.
        best: the best so far on all search documents, or None.
        num_trials: trials so far, with those of the journal.
        cost, budget: spent and available, in forward passes over all search documents. Finalists, which
            are evaluated after the search, are in neither.
        seconds_left: an estimate, with the finalists.
        num_finalists, num_finalists_left: trials after the search, which compare closed forms: those that
            ended, and those that are left.
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
        trials: all trials of the search, in order; the finalists are in `choice`.
        best: the best searched candidate: the lowest value on the validation documents among those that were
            checked there; without validation documents, the lowest value on the search documents.
        best_without_start_tokens: the lowest value with n-hat 0; None if each of those failed.
        on_validation: the best candidate on the validation documents; None without them.
        unconstrained: the best candidate beyond the engine's constraints; None if there are no constraints.
        stopped_by: what ended the search.
        choice: the comparison of the best searched candidate with the closed forms; None if these were not
            evaluated.
    """

    trials: tuple[Trial, ...]
    best: Trial
    best_without_start_tokens: Trial | None
    on_validation: Trial | None
    unconstrained: Trial | None
    stopped_by: StoppedBy
    choice: Choice | None = None

    @property
    def cost(self) -> float:
        return sum(trial.total_cost for trial in self.trials)

    @property
    def largest_error(self) -> float | None:
        """Of judging documents from kept keys, in ln value: the largest at a renewal; None without any."""
        errors = [trial.renewal.error for trial in self.trials if trial.renewal is not None]
        return max((error for error in errors if error is not None), default=None)

    @property
    def num_failed(self) -> int:
        return sum(trial.value is None for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Spent in evaluations, over all sessions of the run."""
        return sum(trial.seconds for trial in self.trials)
