"""Two processes, joined by gloo: the same stage as in one, and a fault in one stops both."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
import two_processes
from finetune_stages import load, make_factors, train
from tiny import make_tiny_model

from ropewalk.finetune.distributed import Ranks, factors_digest


@pytest.fixture(scope="module")
def told(tmp_path_factory, tiny_tokenizer):
    """What each process said in each case."""
    folder = tmp_path_factory.mktemp("ranks")
    make_tiny_model(tiny_tokenizer).save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    command = [sys.executable, two_processes.__file__, str(folder / "model"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_two_processes_do_what_one_does(told, tmp_path):
    folder, said = told
    one = train(folder / "model", tmp_path / "one", **two_processes.CHANGES)
    first, second = said["resumed"]
    assert first == second
    assert first["result"] == pytest.approx(one.losses, abs=1e-5)


def test_each_process_keeps_its_generators_and_no_pickle(told):
    folder, _ = told
    names = {path.name for path in (folder / "resumed" / "checkpoint-3").iterdir()}
    assert {"generators-0.json", "generators-1.json"} <= names
    assert not any(zipfile.is_zipfile(path) for path in (folder / "resumed").rglob("*") if path.is_file())


@pytest.mark.parametrize("case", ["other_factors", "factors_lost_later"])
def test_other_factors_on_one_process_stop_both(told, case):
    _, said = told
    assert [process["error"] for process in said[case]] == ["FinetuneError"] * 2
    assert all("Process 1 of 2 holds other factors" in process["message"] for process in said[case])


def test_positions_of_a_shard_on_one_process_stop_both(told):
    _, said = told
    for process in said["positions_of_a_shard"]:
        assert process["error"] == "FinetuneError"
        assert "in group 1 of 2" in process["message"]


def test_a_disk_that_is_full_for_one_process_stops_both(told):
    folder, said = told
    first, second = said["disk_of_one_process"]
    assert "Process 1 of 2 stopped" in first["message"]
    assert "no space left on device" in second["message"]
    assert [path.name for path in (folder / "disk_of_one_process").iterdir()] == ["stage.json"]


def test_one_process_is_alone():
    ranks = Ranks(torch.device("cpu"))
    assert (ranks.is_first, ranks.count, ranks.gather([2.0])) == (True, 1, [[2.0]])
    ranks.require_same("ab" * 32, "factors")
    with pytest.raises(ZeroDivisionError), ranks.together():
        raise ZeroDivisionError


def test_a_digest_is_of_what_turns(told):
    factors = make_factors(load(told[0] / "model"))
    elsewhere = factors.replace(provenance=factors.provenance.__class__(strategy="another"))
    assert factors_digest(elsewhere) == factors_digest(factors)
    for change in ({"num_start_tokens": 4}, {"attention_factor": 1.0}, {"target_length": 129}):
        assert factors_digest(factors.replace(**change)) != factors_digest(factors)
