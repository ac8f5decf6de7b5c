"""A stage on two processes: `python two_processes.py MODEL FOLDER` prints the results of each as JSON.

One process imports the libraries; two copies of it, connected by gloo, run each case.
"""

import contextlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path

import torch
from finetune_stages import load, make_factors, train

from ropewalk.errors import RopewalkError
from ropewalk.finetune.trainer import StageTrainer
from ropewalk.models.model import Model

CHANGES = {"num_steps": 3, "save_every": 2, "batch_size": 4}


class Stopped(Exception):  # noqa: N818
    pass


def resumed(rank, model, folder):
    def stop(progress):
        if progress.step == 3:
            raise Stopped

    with contextlib.suppress(Stopped):
        train(model, folder, on_step=stop, **CHANGES)
    return train(model, folder, **CHANGES).losses


def other_factors(rank, model, folder):
    factors = make_factors(load(model))
    other = factors.replace(num_start_tokens=0) if rank == 1 else factors
    train(model, folder, factors=other, **CHANGES)


def factors_lost_later(rank, model, folder):
    """In the middle of the stage, one process gets other factors."""

    def lose(progress):
        if rank == 1 and progress.step == 1:
            model = Model.wrap(seen[0].model)
            model.install(model.factors.replace(num_start_tokens=0))

    seen = spy()
    train(model, folder, on_step=lose, **CHANGES)


def positions_of_a_shard(rank, model, folder):
    original = StageTrainer.collate

    def collate(self, segments):
        batch = original(self, segments)
        if rank == 1:
            batch["position_ids"] = batch["position_ids"] % (batch["position_ids"].shape[1] // 2)
        return batch

    StageTrainer.collate = collate
    train(model, folder, **CHANGES)


def disk_of_one_process(rank, model, folder):
    original = StageTrainer._write_generators

    def write(self, folder):
        if rank == 1:
            raise OSError(28, "No space left on device")
        original(self, folder)

    StageTrainer._write_generators = write
    train(model, folder, **CHANGES)


CASES = (resumed, other_factors, factors_lost_later, positions_of_a_shard, disk_of_one_process)


def spy():
    seen, original = [], StageTrainer.train

    def train(self, *args, **kwargs):
        seen.append(self)
        return original(self, *args, **kwargs)

    StageTrainer.train = train
    return seen


@contextlib.contextmanager
def restored():
    """Restore the methods that a case replaces."""
    before = {
        name: vars(StageTrainer)[name]
        for name in ("collate", "_write_generators", "train")
        if name in vars(StageTrainer)
    }
    try:
        yield
    finally:
        for name in ("collate", "_write_generators", "train"):
            if name in before:
                setattr(StageTrainer, name, before[name])
            elif name in vars(StageTrainer):
                delattr(StageTrainer, name)


def result(case, rank, model, folder):
    try:
        with restored():
            return {"result": case(rank, model, folder)}
    except RopewalkError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except BaseException:
        return {"crash": traceback.format_exc()}


def run(rank, port, model, folder, write):
    """All cases one after another, in a copy of the process."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }
    torch.set_num_threads(1)
    results = {case.__name__: result(case, rank, model, folder / case.__name__) for case in CASES}
    with os.fdopen(write, "w") as pipe:
        json.dump(results, pipe)
    os._exit(0)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(model, folder):
    pipes, port = [], free_port()
    for rank in range(2):
        read, write = os.pipe()
        if os.fork() == 0:
            run(rank, port, model, folder, write)
        os.close(write)
        pipes.append(read)
    found = []
    for read in pipes:
        with os.fdopen(read) as pipe:
            found.append(json.load(pipe))
    print(json.dumps({name: [results[name] for results in found] for name in found[0]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
