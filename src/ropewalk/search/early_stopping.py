"""Early stopping: validation documents end a search that only fits the documents which it follows.

A search always gets better on the documents that it follows. At some points its best candidate is evaluated
on the validation documents too. The search stops when the last checks bring no improvement there, and the
candidate that is best there is the result. Test documents are read by neither.
"""

from ropewalk.errors import SettingError
from ropewalk.search.objective import Objective
from ropewalk.search.trial import Trial

MOST_CHECKS = 8
# For checks. At least two are reserved: with kept keys both are at the end, otherwise one.
SHARE_OF_BUDGET = 0.05
PATIENCE = 2


class EarlyStopping:
    """When to check, when to stop, and which candidate to take. It depends only on the recorded trials.

    Attributes:
        objective: the search's own objective on the validation documents.
        patience: checks without improvement that stop the search.
        cost: of one check, in forward passes over the search documents.
        num_checks: the largest number of checks.
    """

    def __init__(
        self, objective: Objective, search_objective: Objective, budget: float, *, patience: int = PATIENCE
    ) -> None:
        if patience < 1:
            raise SettingError(f"The patience is {patience} checks, but must be at least 1.")
        self.objective = objective
        self.patience = patience
        self.cost = objective.cost * objective.num_documents / search_objective.num_documents
        self.num_checks = max(2, min(MOST_CHECKS, int(SHARE_OF_BUDGET * budget / self.cost)))
        # Values from kept keys are approximate, so a runner-up is checked at the end too.
        self._num_final = 2 if search_objective.from_kept else 1
        self._interval = budget / self.num_checks
        self._checked: list[tuple[Trial, Trial]] = []  # (in the search, on the validation documents)
        self._last_cost = 0.0

    def is_due(self, best: Trial | None, cost: float) -> bool:
        """Whether to check the best candidate after this many forward passes."""
        is_early = (
            cost - self._last_cost < self._interval or len(self._checked) + self._num_final >= self.num_checks
        )
        return not is_early and self.is_new(best)

    def is_new(self, best: Trial | None) -> bool:
        """Whether the best candidate has not been checked."""
        return best is not None and all(trial.candidate != best.candidate for trial, _ in self._checked)

    def record(self, best: Trial, checked: Trial, cost: float) -> None:
        """Add a check.

        Args:
            best: the best trial of the search.
            checked: the same candidate on the validation documents.
            cost: forward passes of the search so far.
        """
        self._checked.append((best, checked))
        self._last_cost = cost

    @property
    def should_stop(self) -> bool:
        """Whether none of the last `patience` checks is better than one before them."""
        values = [checked.rank[0] for _, checked in self._checked]
        earlier, latest = values[: -self.patience], values[-self.patience :]
        return bool(earlier) and min(latest) >= min(earlier)

    @property
    def best(self) -> tuple[Trial, Trial] | None:
        """The trials of the best candidate on the validation documents: in the search, and there.

        None before the first successful check.
        """
        known = [pair for pair in self._checked if pair[1].value is not None]
        return min(known, key=lambda pair: pair[1].rank, default=None)
