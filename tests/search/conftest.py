import pytest
from quadratic import Bowl, make_space


@pytest.fixture
def space():
    return make_space()


@pytest.fixture
def bowl(space):
    return Bowl(space)
