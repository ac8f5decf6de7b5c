import pytest
from small_models import Fresh, build, factor_set

import ropewalk


@pytest.fixture
def model():
    return build()


@pytest.fixture
def fresh(model):
    """What is right, and the model made to follow its set."""
    entries = factor_set(model)
    found = Fresh(model, entries)
    ropewalk.apply(model, entries)
    return found
