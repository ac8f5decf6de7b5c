import pytest
from quadratic import RecordingObjective, make_space


@pytest.fixture
def space():
    return make_space()


@pytest.fixture
def objective(space):
    return RecordingObjective(space)
