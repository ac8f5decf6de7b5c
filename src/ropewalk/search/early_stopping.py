"""The stop set: documents that a search does not follow, to notice when it only fits those it does.

A search always gets better on the documents that it looks at. Now and then its best candidate so far is
measured on the stop set as well; when that has not improved for some checks, the search ends, and what is
best there is chosen, not what is best on the search documents. A third set, for the report, is read by
neither.
"""

from ropewalk.errors import SettingError
from ropewalk.search.objective import Objective
from ropewalk.search.trial import Trial

MOST_CHECKS = 8
SHARE_OF_BUDGET = 0.05  # for checks; two are made in any case, one of them at the end
PATIENCE = 2


class StopSet:
    """When to check, when to give up, and what to choose. A function of the trials that it was told.

    Attributes:
        objective: the search's own terms on the stop documents.
        cost: of one check, in forward passes over the search documents.
        num_checks: at most so many are made.
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
        self._interval = budget / self.num_checks
        self._checked: list[tuple[Trial, Trial]] = []  # (as searched, on the stop set)
        self._last_cost = 0.0

    def is_due(self, best: Trial | None, cost: float) -> bool:
        """Whether the best so far should be checked now, so many forward passes into the search."""
        is_early = cost - self._last_cost < self._interval or len(self._checked) + 1 >= self.num_checks
        return not is_early and self.is_new(best)

    def is_new(self, best: Trial | None) -> bool:
        """Whether the best so far was never checked."""
        return best is not None and all(trial.candidate != best.candidate for trial, _ in self._checked)

    def take_note(self, best: Trial, checked: Trial, cost: float) -> None:
        """`checked`: the best so far, measured on the stop set."""
        self._checked.append((best, checked))
        self._last_cost = cost

    @property
    def gives_up(self) -> bool:
        """Whether the last `patience` checks were all no better than one before them."""
        values = [checked.rank[0] for _, checked in self._checked]
        earlier, latest = values[: -self.patience], values[-self.patience :]
        return bool(earlier) and min(latest) >= min(earlier)

    @property
    def chosen(self) -> tuple[Trial, Trial] | None:
        """What is best on the stop set: its trial there and in the search; None before the first check."""
        known = [pair for pair in self._checked if pair[1].value is not None]
        return min(known, key=lambda pair: pair[1].rank, default=None)
