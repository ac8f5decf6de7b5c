"""A run on several processes, launched by torchrun or a launcher that sets the same variables.

The first process does all that a single process does. The others follow it through the stages: they read in
the run's folder, which all processes must see, what it has completed, and join each training.
"""

import os
import time
from typing import Any

import torch

from ropewalk.recipe.run_folder import PipelineFolder
from ropewalk.recipe.stage_context import Run, StopForExternal
from ropewalk.recipe.stage_folder import StageFolder
from ropewalk.recipe.stage_runs import STAGE_FUNCTIONS, train
from ropewalk.recipe.stages import ExternalStage, FinetuneStage, Stage

POLL_S = 0.2


def is_first_process() -> bool:
    """Whether this process runs the stages; true also for a single process."""
    return _number("WORLD_SIZE", 1) < 2 or _number("RANK", 0) == 0


def take_own_device(device: str) -> None:
    """Makes `cuda` this process's device, if the processes of a machine have one each."""
    if device == "cuda" and _number("LOCAL_WORLD_SIZE", 1) > 1:
        torch.cuda.set_device(_number("LOCAL_RANK", 0))


def follow(run: Run, folder: PipelineFolder, identity: dict[str, Any]) -> None:
    """Follows the first process through the stages, until the last one is complete.

    If the first process fails, the launcher ends the others.

    Args:
        run: the state of this process.
        folder: the run's folder, not locked.
        identity: of the recipe, as in the first process.

    Raises:
        RunFolderError: the folder contains another recipe's run.
        StopForExternal: the first process stops for an external training.
        FinetuneError: as `finetune`.
    """
    while not folder.holds(identity):
        time.sleep(POLL_S)
    for index, stage in enumerate(run.recipe.stages):
        place = folder.stage(index, stage.title)
        STAGE_FUNCTIONS[type(stage)].apply(run, stage, place, _made(run, stage, place))


def _made(run: Run, stage: Stage, place: StageFolder) -> dict[str, Any]:
    """What the first process made of a stage; this process joins a training."""
    has_joined = False
    while (made := place.done()) is None:
        if isinstance(stage, FinetuneStage) and place.inputs_path.is_file() and not has_joined:
            train(run, stage, place)
            has_joined = True
        elif isinstance(stage, ExternalStage) and run.continue_with is None and place.start_path.is_dir():
            raise StopForExternal(place.start_path, stage)
        else:
            time.sleep(POLL_S)
    return made


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else otherwise
