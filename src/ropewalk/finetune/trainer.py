"""transformers' Trainer with other batches, other checkpoints, and a check before the first step.

Trainer does everything else: the loop, accelerate's wrappers, gradient accumulation, clipping, mixed
precision, the optimizer, the schedule, and loggers.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from ropewalk.errors import DataError, SettingError
from ropewalk.finetune import checkpoints
from ropewalk.finetune.checks import CheckBatch
from ropewalk.finetune.data.packing import Segment, collate
from ropewalk.finetune.distributed import Ranks
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.step_reports import StepProgress, StepReports, TrainingLog
from ropewalk.finetune.training_arguments import training_arguments
from ropewalk.models.activation_checkpointing import DifferentiableAttention


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trains one stage; made by `make_trainer`.

    Attributes:
        stage: the folder of the stage.
        segments: `datasets.IterableDataset` of the segments of all processes.
        check: the segments that trainer and evaluator score.
        evaluated: the evaluator's scores before the first step.
        installed_digest: returns SHA-256 of the installed factors.
        write_model: writes the model (or its adapter) into a folder.
        reload: scores a checkpoint that was just written, and compares it with the given scores.
        recomputed: True if `models.activation_checkpointing` recomputes the layers.
        num_done: steps before this start.
    """

    settings: FinetuneSettings
    stage: Path
    segments: Any
    log_so_far: TrainingLog
    ranks: Ranks
    check: CheckBatch
    evaluated: list[float]
    installed_digest: Callable[[], str]
    write_model: Callable[[Path], None]
    reload: Callable[[Path, list[float]], None]
    recomputed: bool = False
    num_done: int = 0

    @property
    def is_sharded(self) -> bool:
        """True if weights and optimizer are spread over several processes, by settings or by the launcher."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    # ---------------------------------------------------------------- data

    def get_train_dataloader(self) -> Any:
        """The batches of this process. accelerate's loader would read one ahead and lose the position."""
        if self.num_done >= self.settings.num_steps:
            return iter(())  # all steps are done
        return self._batches()

    def _batches(self) -> Iterator[dict[str, Any]]:
        """The batches of this process; a step has the same segments with any number of processes.

        A micro-batch has `per_device_batch_size` segments per process. Every process packs all segments, so
        that the text ends at the same step in all of them, unlike with `split_dataset_by_node`.
        """
        size, cp_size = self.settings.per_device_batch_size, self.settings.cp_size
        start = self.ranks.index // cp_size * size
        num_at_once = self.ranks.count // cp_size * size
        for columns in self.segments.iter(batch_size=num_at_once, drop_last_batch=True):
            rows = zip(*columns.values(), strict=True)
            segments = [Segment(**dict(zip(columns, row, strict=True))) for row in rows]
            yield self.collate(segments[start : start + size])
        raise DataError("The training text ended before the stage: give more text, or use fewer steps.")

    def collate(self, segments: list[Segment]) -> dict[str, Any]:
        return collate(segments)

    # ---------------------------------------------------------------- a step

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; on a CPU, with an attention whose backward pass is faster for grouped heads."""
        trains_here = self.args.device.type == "cpu" and torch.is_grad_enabled()
        # The checkpointing of other libraries would run the layers again without this attention.
        suits = self.recomputed or not (self.settings.gradient_checkpointing or self.is_sharded)
        with DifferentiableAttention() if trains_here and suits else nullcontext():
            return super().compute_loss(*args, **kwargs)

    def score_check(self) -> list[list[float]]:
        """The trainer's scores of the check segments, for each group of processes that share a segment.

        Raises:
            FinetuneError: processes have different factors.
        """
        self.ranks.require_same(self.installed_digest(), "factors")
        return self.check.train_side(self, self.ranks, self.settings.cp_size)

    # ---------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Replaces Trainer's: the same contents without pickles, complete or not at all."""
        name = checkpoints.checkpoint_name(self.state.global_step)
        trained = self.score_check()[0]

        def write(folder: Path) -> None:
            if not self.is_sharded:
                self._write_states(folder)
            self.state.save_to_json(str(folder / "trainer_state.json"))
            position = self.segments.state_dict()
            progress = {**asdict(self.log_so_far), "check": trained, "segments": position}
            checkpoints.write_values(folder / checkpoints.PROGRESS, progress)
            self.reload(folder, trained)

        checkpoints.saving(
            self.stage,
            name,
            self.ranks,
            write=write,
            write_own=self._write_shard if self.is_sharded else self._write_generators,
        )
        with self.ranks.together():
            if self.ranks.is_first:
                checkpoints.prune(self.stage, self.settings.keep_checkpoints)

    def _write_states(self, folder: Path) -> None:
        self.write_model(folder)
        checkpoints.write_optimizer(folder, self.optimizer)
        checkpoints.write_state(folder / "scheduler.json", self.lr_scheduler)
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None:
            checkpoints.write_state(folder / "scaler.json", scaler)

    def _write_generators(self, folder: Path) -> None:
        checkpoints.write_generators(folder, self.ranks.index)

    def _write_shard(self, folder: Path) -> None:
        """The files of FSDP or DeepSpeed: weights, optimizer and scheduler."""
        self._save_optimizer_and_scheduler(str(folder))
        self._write_generators(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights that are not sharded were loaded before the model was wrapped."""
        if self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        checkpoints.read_optimizer(Path(checkpoint), self.optimizer)
        self.lr_scheduler.load_state_dict(checkpoints.read_values(Path(checkpoint) / "scheduler.json"))

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None and (Path(checkpoint) / "scaler.json").is_file():
            scaler.load_state_dict(checkpoints.read_values(Path(checkpoint) / "scaler.json"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.read_generators(Path(checkpoint), self.ranks.index)


class _CheckFirst(TrainerCallback):  # type: ignore[misc]
    """Compares trainer and evaluator before the first step."""

    def __init__(self, trainer: StageTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        trained = trainer.score_check()
        with trainer.ranks.together():
            trainer.check.require_equal(trained, trainer.evaluated)


def make_trainer(
    model: Any,
    settings: FinetuneSettings,
    stage: Path,
    *,
    recomputed: bool,
    on_step: Callable[[StepProgress], None] | None = None,
) -> StageTrainer:
    """Create a trainer without text, check and model writer, and connect the processes of the run.

    Args:
        model: the model to train, or peft's model around it.
        settings: the settings of the stage.
        stage: folder of the stage.
        recomputed: True if the layers of the model apply `gradient_checkpointing` themselves.
        on_step: called after each step.

    Raises:
        SettingError: transformers or accelerate can't run with these settings here.
    """
    try:
        arguments = training_arguments(model, settings, stage, recomputed)
        uses_cache = model.config.use_cache
        trainer = StageTrainer(model=model, args=arguments)
    except SettingError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise SettingError(f"Training can't be set up: {' '.join(str(error).split())}") from error
    if settings.is_sharded and not trainer.is_sharded:
        raise SettingError(
            f"parallel has {' and '.join(settings.parallel)}, but accelerate does not shard weights here "
            f"({arguments.world_size} processes on {arguments.device}): remove it, or launch on several "
            f"devices."
        )
    model.config.use_cache = uses_cache  # the configuration is saved with the weights
    trainer.settings, trainer.stage, trainer.recomputed = settings, stage, recomputed
    trainer.ranks, trainer.log_so_far = Ranks(), TrainingLog()
    trainer.model_accepts_loss_kwargs = True  # the forward of `finetune.loss` does, for every family
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_CheckFirst(trainer))
    trainer.add_callback(StepReports(settings, trainer.log_so_far, on_step))
    return trainer
