"""Checks that trainer and evaluator compute the same loss for the same tokens.

With a label that is shifted twice, a lost theta, or positions that restart on every shard, training does not
crash, and its loss even falls. Therefore, before the first step, the loss of the trainer on the first
segments (with its collator, wrappers and forward) must equal the NLL of the evaluator. A checkpoint is loaded
again, and must have the loss of the trained model, before it is kept.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import FinetuneError, RopewalkError
from ropewalk.evaluate.nll import window_nlls
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.packing import Segment
from ropewalk.finetune.distributed import Ranks
from ropewalk.models.model import Model, load_model
from ropewalk.text.windows import TokenWindow

# Nats per token. In float32, forty times the measured rounding (5e-7, up to 16384 tokens). In half precision,
# kernels may round differently, so very small defects may pass.
TOLERANCE = {"float32": 2e-5, "bf16": 5e-3, "fp16": 1e-3}
SEARCHED_SEGMENTS = 32  # segments that are searched for one of each kind
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckBatch:
    """The segments that trainer and evaluator score: the first of each kind.

    Attributes:
        segments: one, or with mixed windows one of each kind.
        long, short: factors for the two kinds; `short` is None without mixed windows.
        precision: the `precision` of the settings.
    """

    segments: tuple[Segment, ...]
    long: RescaleFactors
    short: RescaleFactors | None
    precision: str

    @classmethod
    def first(
        cls,
        segments: Iterator[Segment],
        *,
        long: RescaleFactors,
        short: RescaleFactors | None,
        precision: str,
    ) -> "CheckBatch":
        """The first segments of a stage."""
        found: dict[bool, Segment] = {}
        for segment in islice(segments, 1 if short is None else SEARCHED_SEGMENTS):
            found.setdefault(segment.is_short, segment)
            if len(found) == 2:
                break
        return cls(segments=tuple(found.values()), long=long, short=short, precision=precision)

    @property
    def sha256(self) -> str:
        """Hash of the tokens and targets."""
        digest = hashlib.sha256()
        for segment in self.segments:
            for tensor in (segment.ids, segment.targets):
                digest.update(tensor.numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def evaluate(self, loaded: Model) -> list[float]:
        """The evaluator's mean nats per counted token of each segment; installed factors stay installed."""
        found = []
        for segment in self.segments:
            with loaded.using(self.short if segment.is_short else self.long), self._autocast(loaded):
                windows, weights = _windows(segment)
                nlls = torch.cat(list(window_nlls(loaded.model, windows)))
            found.append(float((nlls.double() * weights).sum()) / segment.num_counted)
        return found

    def train_side(self, trainer: Any, ranks: Ranks, cp_size: int) -> list[list[float]]:
        """The trainer's mean nats of each segment: one list per group of processes that share a segment."""
        own = [_loss(trainer, segment) / ranks.count for segment in self.segments]
        by_rank = ranks.gather(own)
        groups = [by_rank[start : start + cp_size] for start in range(0, len(by_rank), cp_size)]
        return [[sum(values) for values in zip(*group, strict=True)] for group in groups]

    def require_equal(self, trained: Sequence[Sequence[float]], evaluated: Sequence[float]) -> None:
        """Compare the scores of trainer and evaluator before the first step.

        Raises:
            FinetuneError: they differ by more than `TOLERANCE`.
        """
        for index, group in enumerate(trained):
            for ours, theirs in zip(group, evaluated, strict=True):
                if not abs(ours - theirs) <= TOLERANCE[self.precision]:
                    where = f" in group {index} of {len(trained)}" if len(trained) > 1 else ""
                    raise FinetuneError(
                        f"The trainer has {ours:.6f} nats per token on the first segment{where}, but the "
                        f"evaluator {theirs:.6f} with the same factors (allowed difference: "
                        f"{TOLERANCE[self.precision]:g}): labels, positions, masks or factors of the trainer "
                        f"differ; training stops."
                    )

    def require_reloaded(self, checkpoint: Path, trained: Sequence[float], like: Model) -> None:
        """Load a checkpoint from disk, and check that it scores like the trained model.

        Args:
            checkpoint: folder of the checkpoint.
            trained: the scores of the trained model.
            like: the model whose device, dtype and attention the checkpoint is loaded with.

        Raises:
            FinetuneError: it can't be read, or does not score like the trained model.
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
            raise FinetuneError(f"The checkpoint is not the trained model: {error}") from error
        self.require_same_scores(scored, trained)

    def require_same_scores(self, scored: Sequence[float], trained: Sequence[float]) -> None:
        """Compare the scores of a checkpoint that was loaded again.

        Raises:
            FinetuneError: they differ by more than `TOLERANCE`.
        """
        for theirs, ours in zip(scored, trained, strict=True):
            if not abs(theirs - ours) <= TOLERANCE[self.precision]:
                raise FinetuneError(
                    f"The checkpoint has {theirs:.6f} nats per token on the first segment after loading, but "
                    f"the trained model {ours:.6f} (allowed difference: {TOLERANCE[self.precision]:g}): the "
                    f"checkpoint is not kept."
                )

    def _autocast(self, loaded: Model) -> Any:
        dtype = AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(loaded.model.device.type, dtype=dtype)


def _loss(trainer: Any, segment: Segment) -> float:
    """The loss of a training step, without the backward pass and without dropout."""
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
    """Windows of tokens that attend to each other, and the concatenated weights of all scored tokens."""
    windows, scored = [], []
    for ids, positions, row in zip(segment.ids, segment.positions, segment.weights.double(), strict=True):
        starts = (positions == 0).nonzero().flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            if stop - start > 1:
                windows.append(TokenWindow(ids=ids[start:stop], num_scored=stop - start - 1))
                scored.append(row[start : stop - 1])
    return windows, torch.cat(scored)
