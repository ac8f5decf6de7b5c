"""Run: what the stages of one run share, and how one of them stops it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropewalk.finetune.data.settings import MixtureSettings
from ropewalk.recipe.progress import Watch
from ropewalk.recipe.schema import Recipe
from ropewalk.recipe.stages import ExternalStage
from ropewalk.recipe.state import Models, State
from ropewalk.search.worker_settings import WorkerSettings
from ropewalk.text.tokens import DocumentSet

StageOutput = dict[str, Any]


class StopForExternal(Exception):  # noqa: N818 (no error: the run waits for a checkpoint)
    """The next stage is an external training.

    Attributes:
        folder: of the start checkpoint.
        stage: the stage.
    """

    def __init__(self, folder: Path, stage: ExternalStage) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.stage = stage


@dataclass
class Run:
    """The state that stages share.

    Attributes:
        recipe: resolved.
        models, state: the model in memory, and the state between two stages.
        watch: callbacks for progress.
        window: L of the base model, tokens.
        hidden_size: of the base model.
        tokenizer: of the base model.
        run_id: for records.
        continue_with: a checkpoint for the external stage that the run waits at; used once.
        cut_damaged: whether a stage's journal is cut where it is damaged.
        boundary: where the text is divided (see `text.splits`).
        workers: of the searches.
        training_text: settings of the text for training; None without training.
        searched, reported: the documents of all stages, once they were read.
    """

    recipe: Recipe
    models: Models
    state: State
    watch: Watch
    window: int
    hidden_size: int
    tokenizer: Any
    run_id: str
    continue_with: Path | None = None
    cut_damaged: bool = False
    boundary: int | None = None
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    training_text: MixtureSettings | None = None
    searched: list[DocumentSet] = field(default_factory=list)
    reported: list[DocumentSet] = field(default_factory=list)
