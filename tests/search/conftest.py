import pytest
from quadratic import RecordingObjective, make_space

from ropewalk.models.model import load_model


@pytest.fixture
def space():
    return make_space()


@pytest.fixture
def objective(space):
    return RecordingObjective(space)


@pytest.fixture
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder)
