"""A model, factors and text in, a tuned model out: the fine-tuning room's front door."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from ropewalk.errors import FinetuneError, ModelError, SettingError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune import adapters, checkpoints
from ropewalk.finetune.checks import CheckBatch
from ropewalk.finetune.data.documents import TrainingStream
from ropewalk.finetune.data.packing import Packer
from ropewalk.finetune.distributed import factors_digest
from ropewalk.finetune.loss import tiled_loss
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.trainer import Progress, StageTrainer, StepProgress, is_float32, make_trainer
from ropewalk.finetune.training_folder import MODEL, RESULT, open_stage, read_result, write_result
from ropewalk.models.activation_checkpointing import recomputing
from ropewalk.models.fingerprint import hash_stored_weights, hash_weights
from ropewalk.models.model import Model, load_model

NO_FACTORS = "00" * 32


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What a stage gives back.

    Attributes:
        losses: mean nats of the counted tokens of each step, before it.
        seconds: spent, over all starts of the stage.
        num_tokens: read in all steps together.
        checkpoint: the last one.
        model_folder: the tuned model as transformers reads it, with `factors.json` beside its weights.
        factors: those it was tuned with; they name the tuned weights as what they hold for.
    """

    losses: tuple[float, ...]
    seconds: float
    num_tokens: int
    checkpoint: Path
    model_folder: Path
    factors: RescaleFactors


def finetune(
    loaded: Model,
    factors: RescaleFactors,
    documents: TrainingStream,
    settings: FinetuneSettings,
    folder: str | Path,
    *,
    on_step: Callable[[StepProgress], None] | None = None,
    part_of_recipe: bool = False,
) -> FinetuneResult:
    """Train a model on segments of `settings.length` tokens, turned by these factors all the time.

    Called again on the same folder with the same model, factors, text and settings, it goes on from the last
    checkpoint, on a processor to the same bits; a stage that is done is given back as it is.

    The model is trained in place, and is left without factors; load `result.model_folder` rather than use it.
    Its configuration keeps the base's RoPE: `factors.json` says how the tuned model is to be read.

    Args:
        loaded: its weights in float32 (with lora, only the adapter needs to be).
        documents: at its beginning; see `TrainingStream`.
        folder: for this stage alone; of several processes, one that all of them see.
        on_step: told of each step.
        part_of_recipe: as `training_folder.open_stage`.

    Raises:
        FactorsError: factors of another geometry.
        ModelError: the model can't take these factors, or not be trained.
        SettingError: settings that this machine, or this number of processes, can't run.
        DataError: no document is as long as a segment, the text ends before the stage does, or is another
            than when the stage began.
        RunFolderError: the folder is in use by another process.
        FinetuneError: the folder holds another stage or a damaged checkpoint, or can't be written; the
            trainer's loss is not the evaluator's; or the loss is not finite.
    """
    stage = Path(folder)
    short = _require_trainable(loaded, factors, settings)
    with _adapted(loaded, settings) as model, ExitStack() as stack:
        stack.enter_context(loaded.using(factors))
        layers = _recomputed_layers(loaded, settings)
        stack.enter_context(recomputing(layers, trained=True))
        trainer = make_trainer(model, settings, stage, recomputed=bool(layers), on_step=on_step)
        packer = Packer(
            documents,
            bos=loaded.tokenizer.bos_token_id,
            eos=loaded.tokenizer.eos_token_id,
            length=settings.length,
            short_length=None if short is None else short.geometry.original_length,
        )
        packer.require_long_documents()
        check = CheckBatch.first(packer, long=factors, short=short, precision=settings.precision)
        identity = _identity(loaded, factors, settings, check)
        with trainer.ranks.together():
            if trainer.ranks.is_first:
                stack.enter_context(open_stage(stage, identity, part_of_recipe=part_of_recipe))
        if (stage / RESULT).is_file():
            return _read_result(stage)
        _set_up(trainer, loaded, model, factors, packer, check)
        last = _go_on(trainer, loaded, model)
        stack.enter_context(
            tiled_loss(loaded.model, tile_tokens=settings.loss_tile_tokens, long=factors, short=short)
        )
        stack.callback(_put_right, loaded.model)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        return _finish(trainer, loaded, model, factors)


# ---------------------------------------------------------------- before the first step


def _require_trainable(
    loaded: Model, factors: RescaleFactors, settings: FinetuneSettings
) -> RescaleFactors | None:
    """Refuse what can't be trained; the factors of short segments, if there are any."""
    factors.require_geometry(loaded.geometry, loaded.name)
    if settings.length > factors.target_length:
        raise SettingError(
            f"length is {settings.length} tokens, but the factors reach {factors.target_length}: train on "
            f"segments of at most that, or search factors for a longer target."
        )
    if settings.lora is None and not is_float32(loaded.model):
        raise ModelError(
            f"{loaded.name} was loaded in {loaded.where['dtype']}, where small steps are lost: load it in "
            f"float32, and set precision for what is computed in."
        )
    return _original_factors(loaded, factors, settings) if settings.mixed_window else None


def _recomputed_layers(loaded: Model, settings: FinetuneSettings) -> list[Any]:
    """The layers for `models.activation_checkpointing` on a processor; elsewhere Trainer does it."""
    if not settings.gradient_checkpointing or settings.is_sharded or loaded.model.device.type != "cpu":
        return []
    return list(loaded.decoder_layers or ())


def _original_factors(loaded: Model, factors: RescaleFactors, settings: FinetuneSettings) -> RescaleFactors:
    """The original RoPE, in as many rows as `factors` has."""
    length, original = loaded.geometry.original_length, loaded.description.original_factors()
    if settings.length <= length:
        raise SettingError(
            f"mixed_window needs segments longer than the original window of {length} tokens, but length is "
            f"{settings.length}: leave it out."
        )
    if original.rescale_factors == factors.rescale_factors:
        raise SettingError(
            f"mixed_window reads short documents with the original RoPE, but the configuration of "
            f"{loaded.name} already pins the factors to be trained with: give it the base's configuration, "
            f"or leave it out."
        )
    rows = original.rescale_factors
    return original.replace(
        rescale_factors=rows if original.per_layer else rows * len(factors.rescale_factors)
    )


@contextmanager
def _adapted(loaded: Model, settings: FinetuneSettings) -> Iterator[Any]:
    """What is trained: the model, or an adapter around it, which is out of it again afterwards."""
    if settings.lora is None:
        yield loaded.model
        return
    adapted = adapters.add_adapter(loaded.model, settings.lora, settings.seed)
    try:
        yield adapted
    finally:
        adapters.remove_adapter(adapted)


def _identity(
    loaded: Model, factors: RescaleFactors, settings: FinetuneSettings, check: CheckBatch
) -> dict[str, Any]:
    """What must be alike where a stage is gone on with."""
    return {
        "model": loaded.weights_sha256,
        "factors": factors_digest(factors),
        "text": check.sha256,
        "settings": settings.identity(),
    }


def _set_up(
    trainer: StageTrainer,
    loaded: Model,
    model: Any,
    factors: RescaleFactors,
    packer: Packer,
    check: CheckBatch,
) -> None:
    """Tell the trainer what is this stage's own."""
    settings = trainer.settings
    trainer.packer, trainer.check, trainer.progress = packer, check, Progress()

    def installed_digest() -> str:
        held = loaded.factors
        if held is None:
            return NO_FACTORS
        return factors_digest(factors if held is check.short else held)  # the last batch may be a short one

    def write_model(folder: Path) -> None:
        if settings.lora is None:
            _write_plain(loaded, factors, folder, settings)
        else:
            adapters.write_adapter(model, folder)

    def reload(folder: Path, trained: list[float]) -> None:
        if trainer.is_sharded:
            return  # no single process can hold it; its manifest is checked before it is read
        if settings.lora is None:
            check.require_reloaded(folder, trained, loaded)
        else:
            adapters.read_adapter(model, folder)
            check.require_same_scores(check.evaluate(loaded), trained)

    trainer.installed_digest, trainer.write_model, trainer.reload = installed_digest, write_model, reload


def _go_on(trainer: StageTrainer, loaded: Model, model: Any) -> Path | None:
    """Load the last checkpoint, if there is one, and score the check batch with the evaluator."""
    complete = checkpoints.complete_checkpoints(trainer.stage)
    if not complete:
        trainer.evaluated = trainer.check.evaluate(loaded)
        return None
    last = complete[-1]
    checkpoints.check_manifest(last)
    place = checkpoints.read_json(last / checkpoints.PROGRESS)
    trainer.progress.losses, trainer.progress.seconds = place["losses"], place["seconds"]
    trainer.packer.load_state_dict(place["packer"])
    trainer.num_done = checkpoints.step_of(last)
    if trainer.is_sharded:
        trainer.evaluated = place["check"]  # the weights are there only once they are spread
        return last
    if trainer.settings.lora is None:
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        # Through transformers, which may name weights in files otherwise than in memory.
        loaded.model.load_state_dict(load_model(last, dtype=dtype).model.state_dict())
    else:
        adapters.read_adapter(model, last)
    trainer.evaluated = trainer.check.evaluate(loaded)
    return last


# ---------------------------------------------------------------- after the last step


def _finish(trainer: StageTrainer, loaded: Model, model: Any, factors: RescaleFactors) -> FinetuneResult:
    """The tuned model and the result, on the disk."""
    settings, stage = trainer.settings, trainer.stage
    trained = trainer.check_layout()
    whole = _whole_weights(trainer) if trainer.is_sharded else None
    if settings.lora is not None:
        adapters.merge_adapter(model)

    def write(folder: Path) -> None:
        _write_plain(loaded, factors, folder, settings, weights=whole)
        trainer.check.require_reloaded(folder, trained, loaded)

    checkpoints.saving(stage, MODEL, trainer.ranks, write=write, manifest=False)
    with trainer.ranks.together():
        if trainer.ranks.is_first:
            write_result(
                stage,
                losses=trainer.progress.losses,
                seconds=trainer.progress.seconds,
                num_tokens=settings.num_steps * settings.batch_size * settings.length,
                checkpoint=checkpoints.checkpoint_name(settings.num_steps),
            )
    return _read_result(stage)


def _whole_weights(trainer: StageTrainer) -> dict[str, Any]:
    """What lies in parts, put together; every process calls this, and the first one gets it."""
    parts = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    # FSDP2's are still spread; what is gathered has no memory of its own until it is copied.
    whole = {name: part.full_tensor() if isinstance(part, DTensor) else part for name, part in parts.items()}
    return {name: tensor.cpu().clone() for name, tensor in whole.items()} if trainer.ranks.is_first else {}


def _read_result(stage: Path) -> FinetuneResult:
    remedy = "remove it, so that the stage is finished again from its last checkpoint"
    result = read_result(stage, remedy)
    try:
        return FinetuneResult(
            losses=tuple(map(float, result["losses"])),
            seconds=float(result["seconds"]),
            num_tokens=int(result["num_tokens"]),
            checkpoint=stage / str(result["checkpoint"]),
            model_folder=stage / MODEL,
            factors=RescaleFactors.load(stage / MODEL / "factors.json"),
        )
    except (KeyError, TypeError):
        raise FinetuneError(f"{stage / RESULT} is damaged: {remedy}.") from None


def _write_plain(
    loaded: Model,
    factors: RescaleFactors,
    folder: Path,
    settings: FinetuneSettings,
    *,
    weights: dict[str, Any] | None = None,
) -> None:
    """A checkpoint that transformers reads, with its factors beside it; `weights` where they lay in parts."""
    loaded.model.save_pretrained(folder, state_dict=weights)
    loaded.tokenizer.save_pretrained(folder)
    tuned = {
        "from_model": loaded.name,
        "from_weights_sha256": loaded.weights_sha256,
        **settings.model_dump(mode="json", include={"length", "num_steps", "batch_size", "learning_rate"}),
    }
    made = factors.provenance
    # From now on these factors are for the tuned weights; what lay in parts is hashed as it is stored.
    files = sorted(folder.glob("*.safetensors"))
    now = hash_weights(loaded.model) if weights is None else hash_stored_weights(loaded.model.config, files)
    made = replace(made, weights_sha256=now, settings={**made.settings, "tuned": tuned})
    factors.replace(provenance=made).save(folder / "factors.json")


def _put_right(model: Any) -> None:
    """What Trainer and accelerate leave on a model."""
    if hasattr(model, "activation_checkpointing_disable"):
        model.activation_checkpointing_disable()
    model.__dict__.pop("_original_forward", None)
    model.__dict__.pop("_is_accelerate_prepared", None)
    model.zero_grad(set_to_none=True)
    model.eval()
