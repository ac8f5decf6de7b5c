import sys

import pytest

from ropewalk.errors import SettingError
from ropewalk.search.worker_settings import WorkerSettings


def test_one_worker_is_this_process_unless_a_cluster_is_named(monkeypatch):
    monkeypatch.setattr("ropewalk.search.worker_settings.find_spec", lambda name: name)
    assert not WorkerSettings().uses_ray
    assert WorkerSettings.of(2) == WorkerSettings(num_workers=2)
    assert WorkerSettings.of(2).uses_ray
    assert WorkerSettings(ray_address="auto").uses_ray


@pytest.mark.parametrize("number", [0, 0.25, 1, 2, 8])
def test_a_worker_has_a_share_of_a_gpu_or_several(monkeypatch, number):
    monkeypatch.setattr("ropewalk.search.worker_settings.find_spec", lambda name: name)
    assert WorkerSettings(num_workers=2, gpus_per_worker=number).gpus_per_worker == number


@pytest.mark.parametrize(
    ("given", "noun"),
    [
        ({"num_workers": 0}, "num_workers"), ({"threads_per_worker": 2}, "threads_per_worker"),
        ({"gpus_per_worker": 1}, "gpus_per_worker"), ({"num_workers": 2, "gpus_per_worker": 1.5}, "gpus"),
        ({"ray_address": ""}, "ray_address"), ({"workers": 2}, "num_workers"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(given, noun):
    with pytest.raises(SettingError, match=noun):
        WorkerSettings(**given)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"ropewalk\[cluster\]"):
        WorkerSettings(num_workers=2)
