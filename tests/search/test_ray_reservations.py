"""What is requested of Ray, with a Ray that only records it; on GPUs none of this was run."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from tiny import make_texts

from ropewalk.errors import SettingError
from ropewalk.search import ray_workers
from ropewalk.search.plan import plan_search
from ropewalk.search.settings import SearchSettings
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.search.workers import LoadedModel

LENGTH = 256


class FakeRay:
    """Two machines with 8 cores and 4 GPUs each; has `bundles`, the options and the setups of actors."""

    def __init__(self):
        self.options, self.setups = [], []
        self.exceptions = SimpleNamespace(RayTaskError=KeyError, RayError=OSError)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 4.0}}] * 2

    def remote(self, _class):
        def options(**given):
            self.options.append(given)
            return SimpleNamespace(remote=self.start)

        return SimpleNamespace(options=options)

    def start(self, setup):
        self.setups.append(setup)
        found = LoadedModel(weights_sha256=setup.weights_sha256, environment={})
        return SimpleNamespace(load=SimpleNamespace(remote=lambda: found))

    def get(self, reference):
        return reference

    def kill(self, _actor):
        pass

    def placement_group(self, bundles, strategy):
        self.bundles = bundles
        return SimpleNamespace(wait=lambda _seconds: True)

    def remove_placement_group(self, _group):
        self.bundles = None

    def PlacementGroupSchedulingStrategy(self, _group, placement_group_bundle_index):  # noqa: N802 (Ray's name)
        return placement_group_bundle_index


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()

    @contextmanager
    def connected(_settings):
        yield fake

    monkeypatch.setattr(ray_workers, "_connected", connected)
    monkeypatch.setattr(ray_workers, "import_module", lambda _name: fake)
    monkeypatch.setattr("ropewalk.search.worker_settings.find_spec", lambda name: name)
    return fake


@pytest.fixture
def opened(ray, loaded, tmp_path):
    """A function that opens workers, and returns the bundles, the setup and the options of the last one."""

    def open_workers(*, exact=True, **workers):
        texts = make_texts(tmp_path, loaded.tokenizer, length=LENGTH)
        plan = plan_search(loaded.description, LENGTH, SearchSettings(exact=exact))
        with plan.open_workers(WorkerSettings(**workers), loaded, texts):
            return ray.bundles, ray.setups[-1], ray.options[-1]

    return open_workers


@pytest.mark.parametrize(
    ("given", "gpus", "device"), [({}, 0, "cpu"), ({"gpus_per_worker": 0.5}, 0.5, "cpu"),
                                  ({"gpus_per_worker": 2}, 2, "cuda:all")],
)  # fmt: skip
def test_each_worker_has_a_bundle_of_its_cores_and_gpus(opened, given, gpus, device):
    bundles, setup, options = opened(num_workers=2, threads_per_worker=3, **given)
    assert bundles == [{"CPU": 3, "GPU": gpus} if gpus else {"CPU": 3}] * 2
    assert (options["num_cpus"], options["num_gpus"]) == (3, gpus)
    assert options["scheduling_strategy"] == 1, "the second bundle"
    assert options["max_restarts"] == options["max_task_retries"] == 0
    assert setup.load_options["device"] == device


def test_a_model_on_several_gpus_reads_in_full(opened):
    with pytest.raises(SettingError, match="exact"):
        opened(num_workers=2, gpus_per_worker=2, exact=False)
    opened(num_workers=2, gpus_per_worker=1, exact=False)


@pytest.mark.parametrize(
    ("machines", "num_threads"),
    [
        ([(64, 0), (6, 4)], 3), ([(64, 2), (6, 2)], 6), ([(64, 4)], 32), ([(1, 4)], 1),
    ],
)  # fmt: skip
def test_threads_are_counted_where_the_gpus_are(opened, ray, machines, num_threads):
    ray.nodes = lambda: [{"Alive": True, "Resources": {"CPU": cpu, "GPU": gpu}} for cpu, gpu in machines]
    bundles, _, _ = opened(num_workers=2, gpus_per_worker=2)
    assert bundles == [{"CPU": num_threads, "GPU": 2}] * 2
