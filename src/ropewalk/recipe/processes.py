"""A run on several processes, launched by torchrun or what sets the same variables.

The first process does all that a process alone does. The others read in the run's folder, which all of them
must see, what it has done, take the same way through the stages, and are there when a training begins.
"""

import os
import time
from typing import Any

import torch

from ropewalk.recipe.run_folders import PipelineFolder, StageFolder
from ropewalk.recipe.stage_runs import KINDS, Run, StopForExternal, train
from ropewalk.recipe.stages import ExternalStage, FinetuneStage, Stage

POLL_S = 0.2


def is_first_process() -> bool:
    """Whether this process leads the run, as one that is alone does."""
    return _number("WORLD_SIZE", 1) < 2 or _number("RANK", 0) == 0


def take_own_device(device: str) -> None:
    """Let `cuda` be this process's own device, where several processes of a machine have one each."""
    if device == "cuda" and _number("LOCAL_WORLD_SIZE", 1) > 1:
        torch.cuda.set_device(_number("LOCAL_RANK", 0))


def follow(run: Run, folder: PipelineFolder, identity: dict[str, Any]) -> None:
    """Go through the stages behind the first process.

    It ends when the last stage is done; should the first process fail, the launcher ends the others.

    Args:
        identity: of the recipe, as the first process gives it.

    Raises:
        RunFolderError: the folder holds another recipe's run.
        StopForExternal: where the first process stops for it.
        FinetuneError: as `finetune`.
    """
    while not folder.holds(identity):
        time.sleep(POLL_S)
    for index, stage in enumerate(run.recipe.stages):
        place = folder.stage(index, stage.title)
        KINDS[type(stage)].apply(run, stage, place, _made(run, stage, place))


def _made(run: Run, stage: Stage, place: StageFolder) -> dict[str, Any]:
    """What the first process made of a stage, with this one's help if it is a training."""
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
