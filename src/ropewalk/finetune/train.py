"""`finetune_model`: trains a model on long segments with factors installed, and resumes after a kill."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune import adapters, checkpoints
from ropewalk.finetune.checks import CheckBatch
from ropewalk.finetune.data.packing import Packing, Segment
from ropewalk.finetune.data.training_text import TrainingText, require_long
from ropewalk.finetune.distributed import factors_digest
from ropewalk.finetune.loss import tiled_loss
from ropewalk.finetune.result import FinetuneResult, write_plain
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.stage_inputs import require_trainable
from ropewalk.finetune.step_reports import StepProgress
from ropewalk.finetune.trainer import StageTrainer, make_trainer
from ropewalk.finetune.training_folder import MODEL, RESULT, open_stage, write_result
from ropewalk.models.activation_checkpointing import recomputing
from ropewalk.models.model import Model, load_model

__all__ = ["FinetuneResult", "finetune_model"]

NO_FACTORS = "00" * 32  # the digest of a model without factors


def finetune_model(
    loaded: Model,
    factors: RescaleFactors,
    text: TrainingText,
    settings: FinetuneSettings,
    folder: str | Path,
    *,
    on_step: Callable[[StepProgress], None] | None = None,
    part_of_recipe: bool = False,
) -> FinetuneResult:
    """Train a model on segments of `settings.length` tokens with factors installed.

    Called again on the same folder with the same model, factors, text and settings, it resumes from the last
    checkpoint, on a CPU with the same bits; a complete stage returns its result.

    The model is trained in place and left without factors: load `result.model_folder` afterwards. The
    configuration keeps the RoPE of the base model; `factors.json` says how to read the trained model.

    Args:
        loaded: a model with float32 weights (with `lora`, any dtype).
        factors: the factors to train with.
        text: the text to train on, see `TrainingText`.
        settings: the settings of the stage.
        folder: a folder for this stage only; with several processes, on a disk that all of them share.
        on_step: called after each step.
        part_of_recipe: see `training_folder.open_stage`.

    Returns:
        Losses, and the folder and factors of the trained model.

    Raises:
        FactorsError: the factors have another geometry, or a near window.
        ModelError: the model can't use these factors, or can't be trained.
        SettingError: this machine, or this number of processes, can't run the settings.
        DataError: no document is as long as a segment, or the text ends before the stage.
        RunFolderError: another process uses the folder.
        FinetuneError: the folder has another stage or a damaged checkpoint, or can't be written; the
            trainer's loss is not the evaluator's NLL; or the loss is not finite.
    """
    stage = Path(folder)
    short = require_trainable(loaded, factors, settings)
    window = None if short is None else short.geometry.original_length
    packing = Packing.of(loaded.tokenizer, settings.length, window)
    require_long(text.longest, packing.text_length, packing.length)
    with _adapted(loaded, settings) as model, ExitStack() as stack:
        stack.enter_context(loaded.using(factors))
        layers = _recomputed_layers(loaded, settings)
        stack.enter_context(recomputing(layers, trained=True))
        trainer = make_trainer(model, settings, stage, recomputed=bool(layers), on_step=on_step)

        trainer.segments = text.segments(packing)
        with closing(iter(trainer.segments)) as first:
            segments = (Segment(**columns) for columns in first)
            check = CheckBatch.first(segments, long=factors, short=short, precision=settings.precision)
        identity = {
            "model": loaded.weights_sha256,
            "factors": factors_digest(factors),
            "text": [text.fingerprint, check.sha256],
            "settings": settings.identity(),
        }
        with trainer.ranks.together():
            if trainer.ranks.is_first:
                stack.enter_context(open_stage(stage, identity, part_of_recipe=part_of_recipe))
        if (stage / RESULT).is_file():
            return FinetuneResult.read(stage)

        _connect(trainer, loaded, model, factors, check)
        last = _resume(trainer, loaded, model)
        stack.enter_context(
            tiled_loss(loaded.model, tile_tokens=settings.loss_tile_tokens, long=factors, short=short)
        )
        stack.callback(_restore, loaded.model)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        _write_trained(trainer, loaded, model, factors)
        with trainer.ranks.together():
            if trainer.ranks.is_first:
                write_result(
                    stage,
                    **asdict(trainer.log_so_far),
                    num_tokens=settings.num_steps * settings.batch_size * settings.length,
                    checkpoint=checkpoints.checkpoint_name(settings.num_steps),
                )
        return FinetuneResult.read(stage)


# ---------------------------------------------------------------- before the first step


@contextmanager
def _adapted(loaded: Model, settings: FinetuneSettings) -> Iterator[Any]:
    """The model, or with `lora` the model with an adapter, which is removed afterwards."""
    if settings.lora is None:
        yield loaded.model
        return
    adapted = adapters.add_adapter(loaded.model, settings.lora, settings.seed)
    try:
        yield adapted
    finally:
        adapters.remove_adapter(adapted)


def _recomputed_layers(loaded: Model, settings: FinetuneSettings) -> list[Any]:
    """The layers for `models.activation_checkpointing` on a CPU; elsewhere Trainer recomputes layers."""
    if not settings.gradient_checkpointing or settings.is_sharded or loaded.model.device.type != "cpu":
        return []
    return list(loaded.decoder_layers or ())


def _connect(
    trainer: StageTrainer, loaded: Model, model: Any, factors: RescaleFactors, check: CheckBatch
) -> None:
    """Set the trainer's check, and its functions that write and reload the model."""
    settings = trainer.settings
    trainer.check = check

    def installed_digest() -> str:
        current = loaded.factors
        if current is None:
            return NO_FACTORS
        # With mixed windows, the last batch may have installed the factors of short segments.
        return factors_digest(factors if current is check.short else current)

    def write_model(folder: Path) -> None:
        if settings.lora is None:
            write_plain(loaded, factors, folder, settings)
        else:
            adapters.write_adapter(model, folder)

    def reload(folder: Path, trained: list[float]) -> None:
        if trainer.is_sharded:
            return  # too large for one process; the manifest is checked before it is read
        if settings.lora is None:
            check.require_reloaded(folder, trained, loaded)
        else:
            adapters.read_adapter(model, folder)
            check.require_same_scores(check.evaluate(loaded), trained)

    trainer.installed_digest, trainer.write_model, trainer.reload = installed_digest, write_model, reload


def _resume(trainer: StageTrainer, loaded: Model, model: Any) -> Path | None:
    """Load the last checkpoint, if there is one, and score the check with the evaluator."""
    complete = checkpoints.complete_checkpoints(trainer.stage)
    if not complete:
        trainer.evaluated = trainer.check.evaluate(loaded)
        return None
    last = complete[-1]
    checkpoints.check_manifest(last)
    progress = checkpoints.read_values(last / checkpoints.PROGRESS)
    trainer.log_so_far.losses, trainer.log_so_far.seconds = progress["losses"], progress["seconds"]
    trainer.segments.load_state_dict(progress["segments"])
    trainer.num_done = checkpoints.step_of(last)
    if trainer.is_sharded:
        trainer.evaluated = progress["check"]  # Trainer loads sharded weights later
        return last
    if trainer.settings.lora is None:
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        # transformers may use other names for weights in files than in memory.
        loaded.model.load_state_dict(load_model(last, dtype=dtype).model.state_dict())
    else:
        adapters.read_adapter(model, last)
    trainer.evaluated = trainer.check.evaluate(loaded)
    return last


# ---------------------------------------------------------------- after the last step


def _write_trained(trainer: StageTrainer, loaded: Model, model: Any, factors: RescaleFactors) -> None:
    """Write the trained model, and check that it scores like the trainer's."""
    settings, stage = trainer.settings, trainer.stage
    trained = trainer.score_check()[0]
    gathered = _gathered_weights(trainer) if trainer.is_sharded else None
    if settings.lora is not None:
        adapters.merge_adapter(model)

    def write(folder: Path) -> None:
        write_plain(loaded, factors, folder, settings, weights=gathered)
        trainer.check.require_reloaded(folder, trained, loaded)

    checkpoints.saving(stage, MODEL, trainer.ranks, write=write, manifest=False)


def _gathered_weights(trainer: StageTrainer) -> dict[str, Any]:
    """Sharded weights as whole tensors in process 0; every process calls this."""
    parts = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    # FSDP2 returns distributed tensors; a gathered tensor has its own memory only as a copy.
    whole = {name: part.full_tensor() if isinstance(part, DTensor) else part for name, part in parts.items()}
    return {name: tensor.cpu().clone() for name, tensor in whole.items()} if trainer.ranks.is_first else {}


def _restore(model: Any) -> None:
    """Remove what Trainer and accelerate leave on a model."""
    if hasattr(model, "activation_checkpointing_disable"):
        model.activation_checkpointing_disable()
    model.__dict__.pop("_original_forward", None)
    model.__dict__.pop("_is_accelerate_prepared", None)
    model.zero_grad(set_to_none=True)
    model.eval()
