"""transformers' TrainingArguments from the settings of a stage."""

import os
from pathlib import Path
from typing import Any

from accelerate import ParallelismConfig  # type: ignore[import-untyped]
from transformers import TrainingArguments

from ropewalk.errors import SettingError
from ropewalk.finetune.settings import FinetuneSettings

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def training_arguments(model: Any, settings: FinetuneSettings, stage: Path, recomputed: bool) -> Any:
    """The arguments of the stage.

    Args:
        model: the model to train, on its device.
        settings: the settings of the stage.
        stage: folder of the stage.
        recomputed: True if the layers of the model apply `gradient_checkpointing` themselves.

    Raises:
        SettingError: the batch can't be divided among the processes, or fp16 on a CPU.
    """
    num_groups = int(os.environ.get("WORLD_SIZE", "1")) // settings.cp_size
    at_once = settings.per_device_batch_size * max(1, num_groups)
    if num_groups < 1 or settings.batch_size % at_once:
        raise SettingError(
            f"batch_size is {settings.batch_size}, but must be a multiple of the {at_once} segments that "
            f"{max(1, num_groups)} groups of {settings.cp_size} processes read at once."
        )
    if settings.precision == "fp16" and model.device.type == "cpu":
        raise SettingError("precision is fp16, which is not supported on a CPU: use bf16 or float32.")
    checkpointing = settings.gradient_checkpointing and not settings.parallel.get("fsdp") and not recomputed
    further = {"dataloader_pin_memory": False, **_parallel(settings, num_groups), **settings.trainer}
    arguments = TrainingArguments(
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
        activation_checkpointing=checkpointing,
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
        **further,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # never torch's DataParallel, which would split segments
    return arguments


def _parallel(settings: FinetuneSettings, num_groups: int) -> dict[str, Any]:
    """The arguments that `parallel` sets."""
    found: dict[str, Any] = {}
    fsdp = settings.parallel.get("fsdp")
    if fsdp:
        config = dict(fsdp) if isinstance(fsdp, dict) else {}
        config.setdefault("activation_checkpointing", settings.gradient_checkpointing)
        found |= {"fsdp": True, "fsdp_config": config}
    if settings.parallel.get("deepspeed"):
        found["deepspeed"] = settings.parallel["deepspeed"]
    if settings.cp_size > 1:
        found["parallelism_config"] = ParallelismConfig(cp_size=settings.cp_size, dp_shard_size=num_groups)
    return found
