"""FinetuneSettings: all that can be chosen about a fine-tuning stage, besides model, factors and text."""

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ropewalk.errors import SettingError, shown

Schedule = Literal["linear", "constant", "cosine"]
Precision = Literal["float32", "bf16", "fp16"]
PARALLEL = ("fsdp", "deepspeed", "cp_size")

# Of transformers' TrainingArguments: what the fields of these settings, or the stage itself, decide.
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


LARGEST = 2**31 - 1  # what all generators and counters of a training take


def _at_least(low: int) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= LARGEST:
            most = f", at most {LARGEST}" if value > LARGEST else ""
            raise ValueError(
                f"{shown(value)} was given, but it must be a whole number of at least {low}{most}"
            )
        return value

    return AfterValidator(check)


def _between(low: float, high: float, *, above: bool = False) -> AfterValidator:
    """`low <= value < high`, or `low < value < high` with `above`."""

    def check(value: float) -> float:
        if not (low < value if above else low <= value) or not value < high:
            least = f"above {low:g}" if above else f"at least {low:g}"
            most = "finite" if math.isinf(high) else f"below {high:g}"
            raise ValueError(f"{value:g} was given, but it must be {least} and {most}")
        return value

    return AfterValidator(check)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)


class LoraSettings(_Strict):
    """A low-rank adapter in the place of the weights themselves, through peft.

    Attributes:
        rank, alpha, dropout: as peft means them.
        target_modules: names of linear modules, or `all-linear`.
    """

    rank: Annotated[int, _at_least(1)] = 8
    alpha: Annotated[float, _between(0, math.inf, above=True)] = 16.0
    dropout: Annotated[float, _between(0, 1)] = 0.0
    target_modules: tuple[str, ...] | Literal["all-linear"] = ("q_proj", "k_proj", "v_proj", "o_proj")


class FinetuneSettings(_Strict):
    """How a stage is trained; the defaults are the paper's for LLaMA2: batch 32, 2e-5, linear to 0.

    Attributes:
        length: tokens in a segment.
        num_steps: optimizer steps.
        batch_size: segments a step, over all processes.
        per_device_batch_size: of these, how many are in memory at once on a device; it changes memory and
            time, never the result beyond rounding.
        learning_rate, schedule, warmup_steps: from 0 to the rate in the warm-up, then linearly or as a
            cosine to 0 at the last step, or constant.
        weight_decay, betas: of AdamW.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
        seed: of dropout, and of an adapter's first weights. The order of the text is the text's own.
        save_every: steps between checkpoints; the last step is saved in any case.
        keep_checkpoints: how many of them stay.
        gradient_checkpointing: compute a layer's activations again in the backward pass instead of keeping
        them. precision: what is computed in; what is trained is float32 in any case.
        lora: train an adapter; None trains every weight.
        report_to: loggers as transformers names them (tensorboard, trackio, wandb).
        mixed_window: LongRoPE2's: documents that fit the original window keep the original RoPE and see no
            other, longer ones are turned by the factors.
        loss_tile_tokens: tokens whose logits exist at once; None takes what suits the vocabulary.
        parallel: `fsdp` (a dictionary for transformers' fsdp_config, or true), `deepspeed` (a dictionary or a
            file), `cp_size` (processes that share a segment; needs fsdp). Without any, several processes
            each hold the whole model.
        trainer: further TrainingArguments of transformers, for what has no setting here.
    """

    length: Annotated[int, _at_least(8)]
    num_steps: Annotated[int, _at_least(1)]
    batch_size: Annotated[int, _at_least(1)] = 32
    per_device_batch_size: Annotated[int, _at_least(1)] = 1
    learning_rate: Annotated[float, _between(0, math.inf, above=True)] = 2e-5
    schedule: Schedule = "linear"
    warmup_steps: Annotated[int, _at_least(0)] = 0
    weight_decay: Annotated[float, _between(0, math.inf)] = 0.0
    max_grad_norm: Annotated[float, _between(0, math.inf)] = 1.0
    betas: tuple[Annotated[float, _between(0, 1)], Annotated[float, _between(0, 1)]] = (0.9, 0.95)
    seed: Annotated[int, _at_least(0)] = 0
    save_every: Annotated[int, _at_least(1)] = 50
    keep_checkpoints: Annotated[int, _at_least(1)] = 2
    gradient_checkpointing: bool = True
    precision: Precision = "float32"
    lora: LoraSettings | None = None
    report_to: tuple[str, ...] = ()
    mixed_window: bool = False
    loss_tile_tokens: Annotated[int, _at_least(1)] | None = None
    parallel: dict[str, Any] = Field(default_factory=dict)
    trainer: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Settings from a mapping.

        Raises:
            SettingError: every mistake, on one line.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise SettingError("; ".join(map(_line, error.errors())) + ".") from None

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
        """Whether weights and optimizer lie in parts on several processes."""
        return bool(self.parallel.get("fsdp") or self.parallel.get("deepspeed"))

    def identity(self) -> dict[str, Any]:
        """JSON values that decide what is computed: a stage that is gone on with must have them alike."""
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
            f"parallel has no {unknown[0]!r}{_near(unknown[0], PARALLEL)}: it may hold {PARALLEL}"
        )
    if parallel.get("fsdp") and parallel.get("deepspeed"):
        raise ValueError(
            "parallel names fsdp and deepspeed, but only one can hold the weights: leave one out"
        )
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
            raise ValueError(f"trainer holds {name!r}, which is decided by {OURS[name]}: set it there")
    if not arguments:
        return
    from transformers import TrainingArguments  # noqa: PLC0415 (seconds, that a recipe without it is spared)

    known = TrainingArguments.__dataclass_fields__
    for name in arguments:
        if name not in known:
            raise ValueError(
                f"trainer holds {name!r}, which transformers' TrainingArguments do not have"
                f"{_near(name, known)}"
            )


def _near(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f" (do you mean {close[0]!r}?)" if close else ""


def _line(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"there is no such setting{_near(str(error['loc'][-1]), FinetuneSettings.model_fields)}"
    return f"{where}: {message}" if where else message
