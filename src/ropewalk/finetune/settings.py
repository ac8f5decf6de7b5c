"""FinetuneSettings: the settings of a training stage, besides model, factors and text."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ropewalk.settings import Settings, suggest

Schedule = Literal["linear", "constant", "cosine"]
Precision = Literal["float32", "bf16", "fp16"]
PARALLEL = ("fsdp", "deepspeed", "cp_size")

# Arguments of transformers' TrainingArguments that the stage sets, with the setting or part that decides
# them.
OURS = {
    "output_dir": "the stage's folder",
    "max_steps": "num_steps",
    "num_train_epochs": "num_steps",
    "per_device_train_batch_size": "per_device_batch_size",
    "gradient_accumulation_steps": "batch_size",
    "auto_find_batch_size": "per_device_batch_size",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "seed": "seed",
    "data_seed": "seed",
    "save_strategy": "save_every",
    "save_steps": "save_every",
    "save_total_limit": "keep_checkpoints",
    "save_only_model": "save_every",
    "load_best_model_at_end": "save_every",
    "activation_checkpointing": "gradient_checkpointing",
    "gradient_checkpointing": "gradient_checkpointing",
    "bf16": "precision",
    "fp16": "precision",
    "report_to": "report_to",
    "fsdp": "parallel",
    "fsdp_config": "parallel",
    "deepspeed": "parallel",
    "parallelism_config": "parallel",
    "use_cpu": "the model's device",
    "logging_strategy": "on_step",
    "logging_steps": "on_step",
    "logging_nan_inf_filter": "on_step",
    "remove_unused_columns": "the packing of documents",
    "ignore_data_skip": "the packing of documents",
    "label_smoothing_factor": "the loss",
    "average_tokens_across_devices": "the loss",
    "eval_strategy": "ropewalk evaluate",
    "push_to_hub": "ropewalk export",
    "resume_from_checkpoint": "the stage's folder",
}


LARGEST = 2**31 - 1  # the largest value that all generators and counters of a training accept
Beta = Annotated[float, Field(ge=0, lt=1)]


class LoraSettings(Settings):
    """A low-rank adapter instead of the weights themselves, through peft."""

    rank: int = Field(default=8, ge=1, le=LARGEST, description="Rank of the adapter's matrices.")
    alpha: float = Field(default=16.0, gt=0, description="The adapter is scaled by alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout of the adapter's inputs.")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj"),
        description="Names of linear modules, or `all-linear`.",
    )


class FinetuneSettings(Settings):
    """The settings of a stage. The defaults are those of the paper for LLaMA2: batch 32, 2e-5, linear to 0.

    Raises:
        SettingError: a value out of its range, an unknown name, or values that contradict each other.
    """

    length: int = Field(ge=8, le=LARGEST, description="Tokens in a segment.")
    num_steps: int = Field(ge=1, le=LARGEST, description="Optimizer steps.")
    batch_size: int = Field(
        default=32, ge=1, le=LARGEST, description="Segments in a step, over all processes."
    )
    per_device_batch_size: int = Field(
        default=1,
        ge=1,
        le=LARGEST,
        description="Segments in a device's memory at once. This changes memory and time, and the result "
        "only by rounding.",
    )
    learning_rate: float = Field(default=2e-5, gt=0, description="After the warm-up.")
    schedule: Schedule = Field(
        default="linear",
        description="From the learning rate to 0 at the last step, as a line or a cosine, or constant.",
    )
    warmup_steps: int = Field(
        default=0, ge=0, le=LARGEST, description="Steps from 0 to the learning rate; fewer than `num_steps`."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Of AdamW.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Gradients are scaled down to this norm; 0 leaves them."
    )
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95), description="Of AdamW.")
    seed: int = Field(
        default=0,
        ge=0,
        le=LARGEST,
        description="Seed of dropout and of an adapter's first weights. The data have their own seed for the "
        "order of the text.",
    )
    save_every: int = Field(
        default=50, ge=1, le=LARGEST, description="Steps between checkpoints; the last step is always saved."
    )
    keep_checkpoints: int = Field(default=2, ge=1, le=LARGEST, description="Number of checkpoints to keep.")
    gradient_checkpointing: bool = Field(
        default=True,
        description="Compute a layer's activations again in the backward pass instead of storing them.",
    )
    precision: Precision = Field(
        default="float32", description="Dtype of the computation; trained weights are always float32."
    )
    lora: LoraSettings | None = Field(
        default=None, description="Train an adapter with these settings; null trains every weight."
    )
    report_to: tuple[str, ...] = Field(
        default=(), description="Loggers as transformers names them: tensorboard, trackio, wandb."
    )
    mixed_window: bool = Field(
        default=False,
        description="Mixed windows of LongRoPE2: documents that fit the trained window keep the original "
        "RoPE and attend to no other document; longer ones use the factors.",
    )
    loss_tile_tokens: int | None = Field(
        default=None,
        ge=1,
        le=LARGEST,
        description="Tokens whose logits exist at once; null derives it from the vocabulary.",
    )
    parallel: dict[str, Any] = Field(
        default_factory=dict,
        description="`fsdp` (a dictionary for transformers' fsdp_config, or true), `deepspeed` (a "
        "dictionary or a file), `cp_size` (processes that share a segment; needs fsdp). By default, each "
        "process has the whole model.",
    )
    trainer: dict[str, Any] = Field(
        default_factory=dict,
        description="Further TrainingArguments of transformers, for what has no setting here.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, but must be below the {self.num_steps} steps "
                f"of the stage"
            )
        if self.batch_size % self.per_device_batch_size:
            raise ValueError(
                f"batch_size is {self.batch_size}, but must be a multiple of per_device_batch_size, "
                f"{self.per_device_batch_size}"
            )
        if self.mixed_window and self.per_device_batch_size > 1:
            raise ValueError(
                f"per_device_batch_size is {self.per_device_batch_size}, but with mixed_window, where each "
                f"segment has its own RoPE, it must be 1"
            )
        _check_parallel(self)
        _check_trainer(self.trainer)
        return self

    @property
    def cp_size(self) -> int:
        """Processes that share a segment."""
        return int(self.parallel.get("cp_size", 1))

    @property
    def is_sharded(self) -> bool:
        """Whether weights and optimizer are sharded over several processes."""
        return bool(self.parallel.get("fsdp") or self.parallel.get("deepspeed"))

    def identity(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON values; a resumed stage must have equal ones."""
        free = {
            "per_device_batch_size",
            "save_every",
            "keep_checkpoints",
            "gradient_checkpointing",
            "report_to",
            "loss_tile_tokens",
            "parallel",
        }
        return self.model_dump(mode="json", exclude=free)


def _check_parallel(settings: FinetuneSettings) -> None:
    parallel, length = settings.parallel, settings.length
    unknown = sorted(set(parallel) - set(PARALLEL))
    if unknown:
        raise ValueError(
            f"parallel has no {unknown[0]!r}{suggest(unknown[0], PARALLEL)}: its keys are {PARALLEL}"
        )
    if parallel.get("fsdp") and parallel.get("deepspeed"):
        raise ValueError("parallel has fsdp and deepspeed, but only one can shard the weights: leave one out")
    cp_size = parallel.get("cp_size", 1)
    if not isinstance(cp_size, int) or isinstance(cp_size, bool) or cp_size < 1:
        raise ValueError(f"parallel has cp_size {cp_size!r}, but it must be a whole number of at least 1")
    if cp_size == 1:
        return
    if not parallel.get("fsdp"):
        raise ValueError(f"parallel has cp_size {cp_size}, which needs fsdp too: add `fsdp: true`")
    if length % (2 * cp_size):
        raise ValueError(
            f"length is {length}, but with cp_size {cp_size} it must be a multiple of {2 * cp_size}"
        )
    if settings.mixed_window:
        raise ValueError(
            f"mixed_window needs masks, which can't be shared with cp_size {cp_size}: leave one of them out"
        )


def _check_trainer(arguments: Mapping[str, Any]) -> None:
    for name in arguments:
        if name in OURS:
            raise ValueError(f"trainer has {name!r}, which is decided by {OURS[name]}: set it there")
    if not arguments:
        return
    from transformers import TrainingArguments  # noqa: PLC0415 (takes seconds, needed only for this check)

    known = TrainingArguments.__dataclass_fields__
    for name in arguments:
        if name not in known:
            raise ValueError(
                f"trainer has {name!r}, which transformers' TrainingArguments do not have"
                f"{suggest(name, known)}"
            )
