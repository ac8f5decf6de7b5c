"""Two processes, connected by gloo: the same stage as in one process, and a fault in one stops both."""

import json
import subprocess
import sys
import zipfile

import pytest
import two_processes
from finetune_stages import load, make_factors, train
from tiny import make_tiny_model

from ropewalk.finetune.distributed import Ranks, factors_digest


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_tokenizer):
    """The result or the error of each process in each case."""
    folder = tmp_path_factory.mktemp("ranks")
    make_tiny_model(tiny_tokenizer).save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    command = [sys.executable, two_processes.__file__, str(folder / "model"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_two_processes_do_what_one_does(results, tmp_path):
    folder, cases = results
    one = train(folder / "model", tmp_path / "one", **two_processes.CHANGES)
    first, second = cases["resumed"]
    assert first == second
    assert first["result"] == pytest.approx(one.losses, abs=1e-5)


def test_each_process_keeps_its_generators_and_no_pickle(results):
    folder, _ = results
    names = {path.name for path in (folder / "resumed" / "checkpoint-3").iterdir()}
    assert {"generators-0.json", "generators-1.json"} <= names
    assert not any(zipfile.is_zipfile(path) for path in (folder / "resumed").rglob("*") if path.is_file())


@pytest.mark.parametrize("case", ["other_factors", "factors_lost_later"])
def test_other_factors_on_one_process_stop_both(results, case):
    _, cases = results
    assert [process["error"] for process in cases[case]] == ["FinetuneError"] * 2
    assert all("factors" in process["message"] for process in cases[case])


def test_positions_of_a_shard_on_one_process_stop_both(results):
    _, cases = results
    for process in cases["positions_of_a_shard"]:
        assert process["error"] == "FinetuneError"
        assert "group 1" in process["message"]


def test_a_disk_that_is_full_for_one_process_stops_both(results):
    folder, cases = results
    first, second = cases["disk_of_one_process"]
    assert "Process 1" in first["message"]
    assert "no space left on device" in second["message"]
    assert [path.name for path in (folder / "disk_of_one_process").iterdir()] == ["stage.json"]


def test_one_process_is_alone():
    ranks = Ranks()
    assert (ranks.is_first, ranks.count, ranks.gather([2.0])) == (True, 1, [[2.0]])
    ranks.require_same("ab" * 32, "factors")
    with pytest.raises(ZeroDivisionError), ranks.together():
        raise ZeroDivisionError


def test_a_digest_is_of_the_factors_without_provenance(results):
    factors = make_factors(load(results[0] / "model"))
    elsewhere = factors.replace(provenance=factors.provenance.__class__(strategy="another"))
    assert factors_digest(elsewhere) == factors_digest(factors)
    for change in ({"num_start_tokens": 4}, {"attention_factor": 1.0}, {"target_length": 129}):
        assert factors_digest(factors.replace(**change)) != factors_digest(factors)
