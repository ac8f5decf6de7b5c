"""transformers' Trainer with three things changed: where batches come from, what is saved, what is loaded.

Everything else (the loop, accelerate's wrappers, gradient accumulation, clipping, mixed precision, the
optimizer, the schedule, loggers) is Trainer's own.
"""

import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ropewalk.errors import FinetuneError, SettingError
from ropewalk.finetune import checkpoints
from ropewalk.finetune.checks import CheckBatch
from ropewalk.finetune.data.packing import Batches, Packer, Segment, collate
from ropewalk.finetune.distributed import Ranks
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.models.activation_checkpointing import DifferentiableAttention

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True, kw_only=True)
class StepProgress:
    """What `on_step` is told; the loss is the mean nats of the step's counted tokens, before the step."""

    step: int
    num_steps: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    num_tokens: int
    seconds: float


@dataclass(kw_only=True)
class Progress:
    """What a stage has done so far, over all its starts; it is in every checkpoint.

    Attributes:
        losses: of each step.
        seconds: spent in steps and checks, those that were lost with a killed process not counted.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class StageTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trains one stage; made by `make_trainer`.

    Attributes:
        stage: the stage's folder.
        check: the batch that both sides score.
        evaluated: what the evaluator says of it before the first step.
        installed_digest: SHA-256 of the factors that the model is turned by now.
        write_model: writes what the model is now (or its adapter) into a folder.
        reload: scores a checkpoint that was just written, given what the trainer scores.
        recomputed: whether `models.activation_checkpointing` sees to the layers.
        num_done: steps that were done before this start.
    """

    settings: FinetuneSettings
    stage: Path
    packer: Packer
    progress: Progress
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
        """Whether weights and optimizer lie in parts on several processes, whoever asked for it."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    # ---------------------------------------------------------------- data

    def get_train_dataloader(self) -> Any:
        """Batches of this process; accelerate's own loader reads one ahead, and so loses the place."""
        if self.num_done >= self.settings.num_steps:
            return iter(())  # only what comes after the last step is left to do
        group = self.settings.cp_size
        return Batches(
            self.packer,
            per_device=self.settings.per_device_batch_size,
            process_index=self.ranks.index // group,
            num_processes=self.ranks.count // group,
            collate=self.collate,
        )

    def collate(self, segments: list[Segment]) -> dict[str, Any]:
        return collate(segments)

    # ---------------------------------------------------------------- a step

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """On a processor with attention whose backward pass for grouped heads is the faster one."""
        trains_here = self.args.device.type == "cpu" and torch.is_grad_enabled()
        # Others' checkpointing would run the layers a second time without it.
        suits = self.recomputed or not (self.settings.gradient_checkpointing or self.is_sharded)
        with DifferentiableAttention() if trains_here and suits else nullcontext():
            return super().compute_loss(*args, **kwargs)

    def check_layout(self) -> list[float]:
        """What the trainer scores on the check batch now.

        Raises:
            FinetuneError: processes hold different factors.
        """
        return self.score_check()[0]

    def score_check(self) -> list[list[float]]:
        """The same for each group of processes that share a segment."""
        self.ranks.require_same(self.installed_digest(), "factors")
        return self.check.train_side(self, self.ranks, self.settings.cp_size)

    # ---------------------------------------------------------------- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """In Trainer's place: the same contents without pickles, whole or not at all."""
        name = checkpoints.checkpoint_name(self.state.global_step)
        trained = self.check_layout()

        def write(folder: Path) -> None:
            if not self.is_sharded:
                self._write_states(folder)
            self.state.save_to_json(str(folder / "trainer_state.json"))
            place = {**self.progress.as_dict(), "check": trained, "packer": self.packer.state_dict()}
            checkpoints.write_json(folder / checkpoints.PROGRESS, place)
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
        """The libraries' own files: weights, optimizer and scheduler of FSDP or DeepSpeed."""
        self._save_optimizer_and_scheduler(str(folder))
        self._write_generators(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Whole weights were loaded before the model was wrapped."""
        if self.is_sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        checkpoints.read_optimizer(Path(checkpoint), self.optimizer)
        self.lr_scheduler.load_state_dict(checkpoints.read_json(Path(checkpoint) / "scheduler.json"))

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None and (Path(checkpoint) / "scaler.json").is_file():
            scaler.load_state_dict(checkpoints.read_json(Path(checkpoint) / "scaler.json"))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.read_generators(Path(checkpoint), self.ranks.index)


class _Reports(TrainerCallback):  # type: ignore[misc]
    """Checks before the first step, and tells of every step."""

    def __init__(self, trainer: StageTrainer, on_step: Callable[[StepProgress], None] | None) -> None:
        self._trainer = trainer
        self._on_step = on_step
        self._before = 0.0
        self._started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        trained = trainer.score_check()
        with trainer.ranks.together():
            trainer.check.require_equal(trained, trainer.evaluated)
        self._before = trainer.progress.seconds
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The stage is the epoch; Trainer counts it from the last start."""
        state.epoch = state.global_step / self._trainer.settings.num_steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        trainer, loss = self._trainer, float(logs["loss"])
        if not math.isfinite(loss):
            raise FinetuneError(
                f"The loss is {loss} at step {state.global_step}: lower the learning rate, or go on from the "
                f"checkpoint before with another precision."
            )
        progress = trainer.progress
        progress.losses.append(loss)
        progress.seconds = self._before + time.monotonic() - self._started
        if self._on_step is not None:
            norm = logs.get("grad_norm")
            self._on_step(
                StepProgress(
                    step=state.global_step,
                    num_steps=trainer.settings.num_steps,
                    loss=loss,
                    learning_rate=float(logs["learning_rate"]),
                    gradient_norm=None if norm is None else float(norm),
                    num_tokens=state.global_step * trainer.settings.batch_size * trainer.settings.length,
                    seconds=progress.seconds,
                )
            )


def make_trainer(
    model: Any,
    settings: FinetuneSettings,
    stage: Path,
    *,
    recomputed: bool,
    on_step: Callable[[StepProgress], None] | None = None,
) -> StageTrainer:
    """A trainer whose own attributes are still to be set; the processes of a run know each other now.

    Args:
        recomputed: whether the model's layers see to `gradient_checkpointing` themselves.

    Raises:
        SettingError: what the settings ask of transformers or accelerate can't be had here.
    """
    try:
        arguments = _arguments(model, settings, stage, recomputed)
        arguments._n_gpu = min(arguments.n_gpu, 1)  # never torch's DataParallel, which would split segments
        uses_cache = model.config.use_cache
        trainer = StageTrainer(model=model, args=arguments)
    except SettingError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise SettingError(f"Training can't be set up so: {' '.join(str(error).split())}") from error
    if settings.is_sharded and not trainer.is_sharded:
        raise SettingError(
            f"parallel asks for {' and '.join(settings.parallel)}, but accelerate does not share out weights "
            f"here ({arguments.world_size} processes on {arguments.device}): leave it out, or launch on "
            f"several devices."
        )
    model.config.use_cache = uses_cache  # the configuration is saved with the weights
    trainer.settings, trainer.stage, trainer.recomputed = settings, stage, recomputed
    trainer.ranks = Ranks(arguments.device)
    trainer.model_accepts_loss_kwargs = True  # `finetune.loss` does, whatever the family says
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Reports(trainer, on_step))
    return trainer


def _arguments(model: Any, settings: FinetuneSettings, stage: Path, recomputed: bool) -> Any:
    parallel = settings.parallel
    num_groups = int(os.environ.get("WORLD_SIZE", "1")) // settings.cp_size
    at_once = settings.per_device_batch_size * max(1, num_groups)
    if num_groups < 1 or settings.batch_size % at_once:
        raise SettingError(
            f"batch_size is {settings.batch_size}, but must be a multiple of the {at_once} segments that "
            f"{max(1, num_groups)} groups of {settings.cp_size} processes read at once."
        )
    if settings.precision == "fp16" and model.device.type == "cpu":
        raise SettingError("precision is fp16, which a processor does not train in: choose bf16 or float32.")
    fsdp = parallel.get("fsdp")
    further: dict[str, Any] = {}
    if fsdp:
        config = dict(fsdp) if isinstance(fsdp, dict) else {}
        config.setdefault("activation_checkpointing", settings.gradient_checkpointing)
        further |= {"fsdp": True, "fsdp_config": config}
    if parallel.get("deepspeed"):
        further["deepspeed"] = parallel["deepspeed"]
    if settings.cp_size > 1:
        from accelerate import ParallelismConfig  # type: ignore[import-untyped]  # noqa: PLC0415

        further["parallelism_config"] = ParallelismConfig(cp_size=settings.cp_size, dp_shard_size=num_groups)
    return TrainingArguments(
        output_dir=str(stage),
        max_steps=settings.num_steps,
        per_device_train_batch_size=settings.per_device_batch_size,
        gradient_accumulation_steps=settings.batch_size // at_once,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        seed=settings.seed,
        save_strategy="steps",
        save_steps=settings.save_every,
        activation_checkpointing=settings.gradient_checkpointing and not fsdp and not recomputed,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        report_to=list(settings.report_to),
        use_cpu=model.device.type == "cpu",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        ignore_data_skip=True,
        disable_tqdm=True,
        **{"dataloader_pin_memory": False, **further, **settings.trainer},
    )


def is_float32(model: Any) -> bool:
    """Whether all that is trained is float32: half precision loses a small step altogether."""
    return all(
        parameter.dtype == torch.float32 for parameter in model.parameters() if parameter.requires_grad
    )
