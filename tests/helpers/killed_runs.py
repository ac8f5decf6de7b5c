"""Runs of a recipe, one whole and one killed again and again: `python killed_runs.py RECIPE FOLDER SEED`.

Prints, as JSON, where the second one was killed. One process imports what is needed, and copies of it are the
processes that are killed; what they tell comes through a pipe. A moment is a thing told by the whole run, and
up to a tenth of a second more.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from ropewalk.recipe.progress import Watch
from ropewalk.recipe.reading import load_recipe
from ropewalk.recipe.run import run_recipe

KINDS = ("trial of first", "step of tune", "trial of second", "record of")


def session(recipe, folder, told):
    """A process that runs the recipe and writes a line for each trial, step and record that is new."""
    stage = ""

    def tell(what):
        os.write(told, f"{what}\n".encode())

    def on_stage(_, title, is_held, left):
        nonlocal stage
        stage = title

    watch = Watch(
        on_stage=on_stage,
        on_trial=lambda progress: tell(f"trial of {stage} {progress.num_trials}"),
        on_step=lambda step: tell(f"step of {stage} {step.step}"),
        on_record=lambda record: tell(f"record of {record.metric} {record.factors} {record.length}"),
    )
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        run_recipe(recipe, folder, watch=watch)
        os._exit(0)
    return child


def run(recipe, folder, until=None, pause=0.0):
    """What a session told, up to the moment that it is killed at, and how it ended."""
    reading, writing = os.pipe()
    child = session(recipe, folder, writing)
    os.close(writing)
    lines = []
    with os.fdopen(reading) as told:
        for line in told:
            lines.append(line.strip())
            if lines[-1] == until:
                time.sleep(pause)
                os.killpg(child, signal.SIGKILL)
                break
    return lines, os.waitpid(child, 0)[1]


def main(recipe, folder, seed):
    recipe = load_recipe(recipe, window=64)
    rng = random.Random(seed)
    things, code = run(recipe, folder / "whole")
    assert code == 0, things
    kills = []
    for kind in KINDS:
        moment = rng.choice([thing for thing in things if thing.startswith(kind)])
        _, code = run(recipe, folder / "killed", moment, rng.uniform(0, 0.1))
        kills.append([moment, code])
    _, code = run(recipe, folder / "killed")
    print(json.dumps({"kills": kills, "code": code}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
