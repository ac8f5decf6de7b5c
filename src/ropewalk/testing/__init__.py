"""What every strategy must keep to, as checks that the author of one from outside can run.

    from ropewalk.testing import check_strategy
    check_strategy("my_package.my_module:MyStrategy", {"my_setting": 3})

A broken contract is an AssertionError that says which one, in which space. No model is needed: strategies are
tried on a bowl, an objective whose lowest point is known. With pytest, `CONTRACTS` and `spaces()` can be
parametrised over:

    @pytest.mark.parametrize("contract", CONTRACTS)
    @pytest.mark.parametrize("space", spaces())
    def test_mine(contract, space):
        check_contract(contract, MyStrategy, space)
"""

from ropewalk.testing.quadratic_objective import Bowl, spaces
from ropewalk.testing.strategy_contracts import CONTRACTS, check_contract, check_strategy

__all__ = ["CONTRACTS", "Bowl", "check_contract", "check_strategy", "spaces"]
