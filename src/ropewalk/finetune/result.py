"""The result of a stage, and writing the trained model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ropewalk.errors import FinetuneError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.training_folder import MODEL, RESULT, read_result
from ropewalk.models.fingerprint import hash_stored_weights, hash_weights
from ropewalk.models.model import Model


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """The result of a stage.

    Attributes:
        losses: mean nats per counted token of each step, before its update.
        seconds: seconds of all steps, over all starts of the stage.
        num_tokens: tokens of all steps.
        checkpoint: folder of the last checkpoint.
        model_folder: folder of the trained model, as transformers reads it, with `factors.json`.
        factors: the factors it was trained with; their provenance names the trained weights.
    """

    losses: tuple[float, ...]
    seconds: float
    num_tokens: int
    checkpoint: Path
    model_folder: Path
    factors: RescaleFactors

    @classmethod
    def read(cls, stage: Path) -> Self:
        """Read the result of a complete stage.

        Raises:
            FinetuneError: the file is damaged.
        """
        remedy = "remove it, so that the stage is completed again from its last checkpoint"
        result = read_result(stage, remedy)
        try:
            return cls(
                losses=tuple(map(float, result["losses"])),
                seconds=float(result["seconds"]),
                num_tokens=int(result["num_tokens"]),
                checkpoint=stage / str(result["checkpoint"]),
                model_folder=stage / MODEL,
                factors=RescaleFactors.load(stage / MODEL / "factors.json"),
            )
        except (KeyError, TypeError):
            raise FinetuneError(f"{stage / RESULT} is damaged: {remedy}.") from None


def write_plain(
    loaded: Model,
    factors: RescaleFactors,
    folder: Path,
    settings: FinetuneSettings,
    *,
    weights: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint that transformers reads, with `factors.json` beside it.

    Args:
        loaded: the trained model.
        factors: the factors it was trained with.
        folder: an empty folder.
        settings: the settings of the stage, for the provenance.
        weights: the weights, gathered from all processes, if they were sharded.
    """
    loaded.model.save_pretrained(folder, state_dict=weights)
    loaded.tokenizer.save_pretrained(folder)
    tuned = {
        "from_model": loaded.name,
        "from_weights_sha256": loaded.weights_sha256,
        **settings.model_dump(mode="json", include={"length", "num_steps", "batch_size", "learning_rate"}),
    }
    made = factors.provenance
    # These factors are for the trained weights. Gathered weights are hashed as they are stored.
    files = sorted(folder.glob("*.safetensors"))
    now = hash_weights(loaded.model) if weights is None else hash_stored_weights(loaded.model.config, files)
    made = replace(made, weights_sha256=now, settings={**made.settings, "tuned": tuned})
    factors.replace(provenance=made).save(folder / "factors.json")
