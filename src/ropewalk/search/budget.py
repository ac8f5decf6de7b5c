"""The budget of a search: what the strategy may spend, and what the loop spends on its own trials."""

from ropewalk.errors import SettingError
from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.objective import Objective
from ropewalk.search.space import SearchSpace

RENEWAL_SHARE = 0.1
ROUNDING = 1e-9  # of sums of costs


def reserved(
    evaluation_cost: float,
    space: SearchSpace,
    early_stopping: EarlyStopping | None = None,
    unconstrained: UnconstrainedCandidates | None = None,
) -> float:
    """The most that the loop's own trials cost, in forward passes over all search documents.

    They are the check of n-hat 0, those on the validation documents, and the unconstrained candidates. Kept
    keys are in `renewals`.

    Args:
        evaluation_cost: of a value of all documents.
    """
    cost = evaluation_cost if space.searches_start_tokens else 0.0
    if early_stopping is not None:
        cost += early_stopping.num_checks * early_stopping.cost
    if unconstrained is not None:
        cost += unconstrained.num_candidates * evaluation_cost
    return cost


def strategy_budget(
    budget: float,
    objective: Objective,
    space: SearchSpace,
    early_stopping: EarlyStopping | None = None,
    unconstrained: UnconstrainedCandidates | None = None,
) -> float:
    """The budget less what the loop reserves for its own trials and for kept keys.

    Raises:
        SettingError: nothing is left for one trial.
    """
    checks = reserved(objective.cost, space, early_stopping, unconstrained)
    least = objective.cost + checks + first_keys(objective)
    if budget + ROUNDING < least:
        raise too_small(budget, least, with_checks=least > objective.cost)
    return budget - checks - renewals(budget, objective, checks)


def renewals(budget: float, objective: Objective, checks: float) -> float:
    """What kept keys may cost: the first ones of every document, and a share of the budget to renew them.

    A small budget has renewals for half of what one trial leaves, at most.

    Args:
        checks: what the loop's own trials cost (`reserved`).
    """
    if not objective.from_kept:
        return 0.0
    left = budget - checks - first_keys(objective) - objective.cost
    return first_keys(objective) + min(RENEWAL_SHARE * budget, left / 2)


def first_keys(objective: Objective) -> float:
    """What the first keys of all documents cost; 0 where documents are read in full."""
    return sum(objective.full_costs) if objective.from_kept else 0.0


def too_small(budget: float, least: float, *, with_checks: bool) -> SettingError:
    """The error for a budget that pays for no trial."""
    checks = " and the checks" if with_checks else ""
    return SettingError(
        f"The budget is {budget:g} evaluations, but must be at least {least:g} for one "
        f"trial{checks}: give more."
    )
