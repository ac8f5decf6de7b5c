"""The contracts of a strategy, as checks that authors of plugin strategies can run.

    from ropewalk.testing import check_strategy
    check_strategy("my_package.my_module:MyStrategy", {"my_setting": 3})

A broken contract raises an AssertionError that names the contract and the space. No model is needed: the
checks search on a quadratic objective, whose minimum is known. Tests in pytest can be parametrised over
`CONTRACTS` and `spaces()`:

    @pytest.mark.parametrize("contract", CONTRACTS)
    @pytest.mark.parametrize("space", spaces())
    def test_mine(contract, space):
        check_contract(contract, MyStrategy, space)
"""

from ropewalk.testing.quadratic_objective import QuadraticObjective, spaces
from ropewalk.testing.strategy_contracts import CONTRACTS, check_contract, check_strategy

__all__ = ["CONTRACTS", "QuadraticObjective", "check_contract", "check_strategy", "spaces"]
