"""Each contract is broken by a strategy, and the check says which."""

from dataclasses import replace

import numpy as np
import pytest

from ropewalk.search.strategies.random_search import RandomSearch
from ropewalk.search.trial import Query
from ropewalk.testing import CONTRACTS, check_contract, check_strategy, spaces

SPACE = "full, monotone, all searched"


class LeavesTheSpace(RandomSearch):
    def ask(self):
        candidate = super().ask().candidate
        lambdas = (*candidate.rescale_factors[:-1], 99.0)
        return Query(candidate=replace(candidate, rescale_factors=lambdas))


class DrawsFromNumpy(RandomSearch):
    def ask(self):
        self.generator = np.random.Generator(np.random.PCG64(np.random.randint(2**30)))
        return super().ask()


class DrawsByItsNumber(RandomSearch):
    """Its draws depend on how many were created before, not on the seed."""

    num_created = 0

    def __init__(self, task, settings):
        super().__init__(task, settings)
        type(self).num_created += 1
        self.generator = np.random.Generator(np.random.PCG64(type(self).num_created))


class IgnoresItsSeed(RandomSearch):
    def __init__(self, task, settings):
        super().__init__(task, settings)
        self.generator = np.random.Generator(np.random.PCG64(0))


class LearnsFromItsClass(RandomSearch):
    """Its draws depend on trials that a resumed search does not see."""

    num_told = 0

    def tell(self, trial):
        type(self).num_told += 1
        if type(self).num_told % 7 == 0:
            self.generator.random()


class DrawsAfterFailures(RandomSearch):
    def tell(self, trial):
        if trial.value is None:
            self.generator.random()


class DrawsAhead(RandomSearch):
    def ask_ahead(self):
        yield self.ask()


class ChangesTrials(RandomSearch):
    def tell(self, trial):
        trial.parts.clear()


class NeedsAValue(RandomSearch):
    def tell(self, trial):
        assert trial.value is not None


class NamesAnUnknownDocument(RandomSearch):
    def ask(self):
        return replace(super().ask(), documents=(0, self.task.num_documents))


class ReadsOneDocument(RandomSearch):
    def ask(self):
        return replace(super().ask(), documents=(0,))


class ChangesItsBudget(RandomSearch):
    def __init__(self, task, settings):
        super().__init__(replace(task, budget=10 * task.budget), settings)


class HasAStateOfTuples(RandomSearch):
    def generator_state(self):
        return {"state": (1, 2)}


@pytest.mark.parametrize(
    ("broken", "contract"),
    [
        (LeavesTheSpace, "queries are in the space"),
        (NamesAnUnknownDocument, "queries are in the space"),
        (DrawsByItsNumber, "same seed, same queries"),
        (IgnoresItsSeed, "another seed differs"),
        (NeedsAValue, "failures are survived"),
        (LearnsFromItsClass, "resumed equals uninterrupted"),
        (DrawsAfterFailures, "known queries come next"),
        (DrawsAhead, "known queries come next"),
        (ChangesTrials, "inputs are not changed"),
        (ChangesItsBudget, "the budget is kept"),
        (HasAStateOfTuples, "generator state is JSON"),
        (DrawsFromNumpy, "global generators are not used"),
        (ReadsOneDocument, "only complete values are best"),
    ],
)
def test_a_broken_strategy_is_found(broken, contract):
    with pytest.raises(AssertionError) as error:
        check_contract(contract, broken, SPACE)
    assert all(part in str(error.value) for part in (broken.__name__, contract, SPACE))


def test_a_class_without_settings_is_named():
    class Bare(RandomSearch):
        Settings = None

    with pytest.raises(AssertionError, match="Settings"):
        check_contract("queries are in the space", Bare, SPACE)


def test_check_strategy_checks_every_contract_in_every_space(monkeypatch):
    checked = []
    monkeypatch.setattr(
        "ropewalk.testing.strategy_contracts.check_contract", lambda *a: checked.append(a[::2])
    )
    check_strategy("random")
    assert set(checked) == {(contract, space) for contract in CONTRACTS for space in spaces()}
