"""With Ray: the same bits as in one process, whatever ends; and errors of a worker are errors here."""

import os
import signal
from pathlib import Path

import failing_readings
import psutil
import pytest
import torch
from failing_readings import DEFECT, END, MISTAKE, OUT_OF_MEMORY
from quadratic import journal_values
from tiny import make_texts

from ropewalk.errors import EvaluationError, SettingError
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.journal import Journal
from ropewalk.search.meter import DocumentTask
from ropewalk.search.objective import out_of_memory
from ropewalk.search.plan import plan_search
from ropewalk.search.search import search_factors
from ropewalk.search.settings import SearchSettings
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.search.workers import SEARCH

pytest.importorskip("ray", reason="needs ropewalk[cluster]")

LENGTH = 256


@pytest.fixture
def texts(loaded, tmp_path):
    return make_texts(tmp_path, loaded.tokenizer, length=LENGTH, names="abcde")


@pytest.fixture
def two():
    """As many threads in each worker as here, so that values have the same bits."""
    return WorkerSettings(num_workers=2, threads_per_worker=torch.get_num_threads())


def worker_processes():
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "DocumentWorker" in " ".join(child.cmdline())]


def without_times(path):
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "checksum")}
        for line in journal_values(path)
    ]


def test_a_search_is_the_same_bit_for_bit_if_a_worker_is_killed(loaded, texts, two, tmp_path, capfd):
    def search(name, **more):
        return search_factors(
            loaded, texts.part(0, 3), target_length=LENGTH, strategy="evolution", budget=9, seed=3,
            validation_documents=texts.part(3, 5), journal=Journal(tmp_path / name), **more,
        )  # fmt: skip

    def kill(progress):
        if progress.num_trials == 3:
            os.kill(worker_processes()[0].pid, signal.SIGKILL)

    expected = search("one")
    capfd.readouterr()
    with pytest.warns(UserWarning, match="document"):
        found = search("two", workers=two, on_trial=kill)
    assert found.factors.to_json() == expected.factors.to_json()
    assert without_times(tmp_path / "two") == without_times(tmp_path / "one")
    assert capfd.readouterr().out == "", "stdout has the result only"
    assert worker_processes() == []


def test_errors_of_a_worker_are_raised_here(loaded, texts, two, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(failing_readings.__file__).parent), prepend=os.pathsep)
    settings = SearchSettings(objective="failing_readings:by_draw")
    plan = plan_search(loaded.description, LENGTH, settings)
    factors = scheme_factors("yarn", loaded.geometry, LENGTH)
    with plan.open_workers(two, loaded, texts) as pool:

        def measure(draw, weights=None):
            tasks = [DocumentTask(factors=factors, document=3, draw=draw, weights=weights)]
            return list(pool.measure_all(SEARCH)(tasks))

        with pytest.raises(MemoryError) as caught:
            measure(OUT_OF_MEMORY)
        assert "2 GiB" in out_of_memory(caught.value).reason
        with pytest.raises(SettingError, match="facts"):
            measure(MISTAKE)
        with pytest.raises(ZeroDivisionError):
            measure(DEFECT)
        found = measure(0, {"perplexity": 0.5})
        assert found[0].by_log_factor.shape == (loaded.geometry.num_pairs,)
        with (
            pytest.warns(UserWarning, match="document 3"),
            pytest.raises(EvaluationError, match="document 3"),
        ):
            measure(END)
