import pytest

from training_rooms import stand_in


@pytest.fixture(autouse=True)
def _rooms(monkeypatch):
    stand_in(monkeypatch)
