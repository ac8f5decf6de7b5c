"""`ropewalk extend` under torchrun, a process killed in a training: it ends as a run of one process does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ropewalk.errors import RunFolderError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.recipe.run import run_recipe

RECIPE = """\
model: {{name: {model}}}
text:
  search: {texts}/searched.jsonl
  test: {texts}/reported.jsonl
  num_documents: 2
  num_validation_documents: 1
  num_test_documents: 3
search: {{budget: 5, seed: 1}}
finetune: {{batch_size: 2, learning_rate: 1.0e-2, save_every: 2}}
data: {{sources: [{{name: all, text: {texts}/searched.jsonl}}]}}
stages:
  - {{kind: search, name: first, length: 2x}}
  - {{kind: finetune, name: tune, length: 2x, num_steps: 4}}
  - {{kind: finetune, name: more, length: 2x, num_steps: 3}}
  - {{kind: external, name: elsewhere}}
"""
PROCESSES = Path("/proc")
TOGETHER = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]


def extend(recipe, out, *launched):
    command = [sys.executable, *launched, "ropewalk", "extend", str(recipe), "--out", str(out), "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def process_of(launcher, rank):
    """The number of a process that a launcher started."""
    for process in filter(lambda path: path.name.isdecimal(), PROCESSES.iterdir()):
        try:
            is_child = f"PPid:\t{launcher}\n" in (process / "status").read_text()
            if is_child and f"RANK={rank}".encode() in (process / "environ").read_bytes().split(b"\0"):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"no process {rank} of {launcher}")


@pytest.mark.skipif(not PROCESSES.is_dir(), reason="finds the process to kill in /proc")
def test_two_processes_one_killed_in_a_training(tiny_model_folder, texts, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE.format(model=tiny_model_folder, texts=texts))
    alone = extend(recipe, tmp_path / "alone", "-m")

    killed = extend(recipe, tmp_path / "together", *TOGETHER)
    checkpoint = tmp_path / "together/stages/02-tune/training/checkpoint-2"
    until = time.monotonic() + 120
    while not checkpoint.exists():
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process_of(killed.pid, 1), signal.SIGKILL)
    killed.communicate(timeout=120)
    assert killed.returncode != 0

    again = extend(recipe, tmp_path / "together", *TOGETHER)
    told, story = again.communicate(timeout=240)
    assert again.returncode == 0, story
    start = json.loads(told)["waits_for"]["start"]  # one document: the second process says nothing
    assert start.endswith("together/stages/04-elsewhere/start")
    assert "first: done already" in story

    _, story = alone.communicate(timeout=240)
    assert alone.returncode == 0, story
    for stage in ("02-tune", "03-more"):
        ours, theirs = (
            json.loads((tmp_path / run / "stages" / stage / "training/result.json").read_text())["losses"]
            for run in ("together", "alone")
        )
        assert ours == pytest.approx(theirs, abs=1e-5)
    ours, theirs = (
        RescaleFactors.load(tmp_path / run / "stages/01-first/factors.json") for run in ("together", "alone")
    )
    assert ours.as_values() == theirs.as_values()


def test_a_process_that_is_not_the_first_reads_what_is_there(recipe_of, tmp_path, monkeypatch):
    stages = "  - {kind: search, name: first, length: 2x}\n  - {kind: finetune, length: 2x, num_steps: 2}\n"
    made = run_recipe(recipe_of(stages), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    followed = run_recipe(recipe_of(stages), tmp_path / "run")
    assert (followed.folder, followed.factors, followed.records) == (made.folder, None, ())
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before
    with pytest.raises(RunFolderError, match=r"search\.budget"):
        run_recipe(recipe_of(stages, "search.budget=4"), tmp_path / "run")
