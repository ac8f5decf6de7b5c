"""What a stage trains must be what is evaluated: the trainer's loss against the evaluator's, on one batch.

A label shifted twice, a theta that was lost on the way, positions that begin anew on every shard: nothing
crashes, and the loss even falls. So before the first step the loss on a fixed batch, through the collator,
the wrappers and the forward of the run itself, must be what the evaluator says of the same tokens; and before
a checkpoint is given its name it is loaded again and must score what the trainer's model does.
"""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import FinetuneError, RopewalkError
from ropewalk.evaluate.nll import window_nlls
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.packing import UNCOUNTED, Packer, Segment
from ropewalk.finetune.distributed import Ranks
from ropewalk.models.model import Model, load_model
from ropewalk.text.windows import TokenWindow

# Nats a token. In float32 forty times the rounding that was seen (5e-7, to 16384 tokens); in half precision
# another kernel may round otherwise, so that the smallest faults could hide there.
TOLERANCE = {"float32": 2e-5, "bf16": 5e-3, "fp16": 1e-3}
LOOKED_AT = 32  # segments, for one of each kind
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckBatch:
    """Segments that are scored on both sides: the first of the stage, and the first of the other kind if any.

    Attributes:
        long, short: factors for the two kinds; `short` is None without mixed windows.
        precision: as in the settings.
    """

    segments: tuple[Segment, ...]
    long: RescaleFactors
    short: RescaleFactors | None
    precision: str

    @classmethod
    def first(
        cls,
        packer: Packer,
        *,
        long: RescaleFactors,
        short: RescaleFactors | None,
        precision: str,
    ) -> "CheckBatch":
        """What the packer gives next; it stands afterwards where it stood."""
        state = packer.state_dict()
        found: dict[bool, Segment] = {}
        for _ in range(1 if short is None else LOOKED_AT):
            segment = next(packer)
            found.setdefault(segment.is_short, segment)
            if len(found) == 2:
                break
        packer.load_state_dict(state)
        return cls(segments=tuple(found.values()), long=long, short=short, precision=precision)

    @property
    def sha256(self) -> str:
        """Of the tokens and what counts: it tells texts apart."""
        digest = hashlib.sha256()
        for segment in self.segments:
            for tensor in (segment.ids, segment.targets):
                digest.update(tensor.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def evaluate(self, loaded: Model) -> list[float]:
        """Mean nats of each segment, as the evaluator has them; whatever is installed stays."""
        found = []
        for segment in self.segments:
            with loaded.using(self.short if segment.is_short else self.long), self._autocast(loaded):
                windows, weights = _windows(segment)
                nlls = torch.cat(list(window_nlls(loaded.model, windows)))
            found.append(float((nlls.double() * weights).sum()) / segment.num_counted)
        return found

    def train_side(self, trainer: Any, ranks: Ranks, cp_size: int) -> list[list[float]]:
        """Mean nats of each segment, as the trainer has them: a list for each group that shares a segment."""
        own = [_loss(trainer, segment) / ranks.count for segment in self.segments]
        by_rank = ranks.gather(own)
        groups = [by_rank[start : start + cp_size] for start in range(0, len(by_rank), cp_size)]
        return [[sum(values) for values in zip(*group, strict=True)] for group in groups]

    def require_equal(self, trained: Sequence[Sequence[float]], evaluated: Sequence[float]) -> None:
        """Before step 1.

        Raises:
            FinetuneError: they differ by more than `TOLERANCE`.
        """
        for index, group in enumerate(trained):
            for ours, theirs in zip(group, evaluated, strict=True):
                if not abs(ours - theirs) <= TOLERANCE[self.precision]:
                    where = f" in group {index} of {len(trained)}" if len(trained) > 1 else ""
                    raise FinetuneError(
                        f"The trainer has {ours:.6f} nats a token on the first segment{where}, but the "
                        f"evaluator {theirs:.6f} under the same factors, beyond the allowed "
                        f"{TOLERANCE[self.precision]:g}: its labels, positions, masks or factors are not "
                        f"what is evaluated; nothing more is trained."
                    )

    def require_reloaded(self, checkpoint: Path, trained: Sequence[float], like: Model) -> None:
        """Load a checkpoint from the disk and score it.

        Raises:
            FinetuneError: it can't be read, or does not score as the model that is trained does.
        """
        try:
            reloaded = load_model(
                checkpoint,
                device=str(like.model.device),
                dtype=str(like.model.dtype).removeprefix("torch."),
                attn_implementation=like.where["attn_implementation"] or "sdpa",
                original_length=like.geometry.original_length,
                full_attention=like.full_attention,
            )
            RescaleFactors.load(checkpoint / "factors.json").require_geometry(
                reloaded.geometry, checkpoint.name
            )
            scored = self.evaluate(reloaded)
        except RopewalkError as error:
            raise FinetuneError(f"The checkpoint is not what is trained: {error}") from error
        self.require_same_scores(scored, trained)

    def require_same_scores(self, scored: Sequence[float], trained: Sequence[float]) -> None:
        """Of a checkpoint that was loaded again.

        Raises:
            FinetuneError: they differ by more than `TOLERANCE`.
        """
        for theirs, ours in zip(scored, trained, strict=True):
            if not abs(theirs - ours) <= TOLERANCE[self.precision]:
                raise FinetuneError(
                    f"The checkpoint, loaded again, has {theirs:.6f} nats a token on the first segment, but "
                    f"the model that is trained {ours:.6f}, beyond the allowed "
                    f"{TOLERANCE[self.precision]:g}: it was not kept."
                )

    def _autocast(self, loaded: Model) -> Any:
        dtype = AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(loaded.model.device.type, dtype=dtype)


def _loss(trainer: Any, segment: Segment) -> float:
    """The loss as a training step takes it, without the backward pass and without dropout."""
    model = trainer.model_wrapped
    was_training = model.training
    model.eval()
    try:
        shard, inputs = trainer._prepare_context_parallel_inputs(model, trainer.collate([segment]))
        with torch.no_grad(), shard(), trainer.compute_loss_context_manager():
            inputs = trainer._prepare_inputs(inputs)
            num_counted = torch.tensor(segment.num_counted, device=trainer.args.device)
            return float(trainer.compute_loss(model, inputs, num_items_in_batch=num_counted))
    finally:
        model.train(was_training)


def _windows(segment: Segment) -> tuple[list[TokenWindow], Tensor]:
    """What sees itself only, as windows; and the weights of their scored tokens, one after another."""
    weights = (segment.targets != UNCOUNTED).double() if segment.weights is None else segment.weights.double()
    windows, scored = [], []
    for ids, positions, row in zip(segment.ids, segment.positions, weights, strict=True):
        starts = (positions == 0).nonzero().flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            if stop - start > 1:
                windows.append(TokenWindow(ids=ids[start:stop], num_scored=stop - start - 1))
                scored.append(row[start : stop - 1])
    return windows, torch.cat(scored)
