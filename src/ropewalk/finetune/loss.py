"""The loss of a batch without the logits of a whole segment, computed by the model's own forward.

`TiledLoss` replaces the forward of a causal model. The decoder reads the batch. Then the last steps of the
model (its output matrix, and its family's changes of the logits) run for one tile of tokens at a time, and
again for each tile in the backward pass. The logits of 131072 tokens and a vocabulary of 128k would take 64
GiB.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.packing import UNCOUNTED
from ropewalk.models.model import Model
from ropewalk.models.replaced_attribute import replaced

TILE_LOGITS = 2**22  # logits in memory at once, or those of FEWEST_TOKENS if that is more
FEWEST_TOKENS = 256


class TiledLoss:
    """The forward of a model during training; without labels it calls the model's own.

    The loss is the weighted sum of the nats of all counted tokens, divided by `num_items_in_batch`. The
    gradient of a step is therefore that of the mean over its counted tokens, for any split into
    micro-batches. Losses that a family adds (such as the load balancing of a mixture of experts) are left
    out.

    Args:
        model: a causal model of transformers, with factors installed if `short` is given.
        tile_tokens: tokens per tile; None derives it from the size of the vocabulary.
        long, short: factors for segments of the two kinds; without `short` the installed factors stay.
    """

    def __init__(
        self,
        model: Any,
        *,
        tile_tokens: int | None = None,
        long: RescaleFactors | None = None,
        short: RescaleFactors | None = None,
    ) -> None:
        self._owner = Model.wrap(model)
        self._decoder = self._owner.decoder
        vocabulary_size = model.config.get_text_config(decoder=True).vocab_size
        self._tile_tokens = tile_tokens or max(FEWEST_TOKENS, TILE_LOGITS // vocabulary_size)
        self._original: Callable[..., Any] = model.forward
        self._long, self._short = long, short

    def __call__(
        self,
        *args: Any,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        is_short: bool = False,
        loss_weights: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model's own forward; with `shift_labels`, shape (rows, length), returns only the loss."""
        if shift_labels is None:
            own = {} if labels is None else {"labels": labels}
            return self._original(*args, **own, **kwargs)
        self._install_for(is_short)
        named = {name: kwargs[name] for name in ("input_ids", "position_ids") if kwargs.get(name) is not None}
        output = self._decoder(**named, use_cache=False)
        total = self._sum(output, shift_labels, loss_weights)
        if num_items_in_batch is None:
            num_items_in_batch = (shift_labels != UNCOUNTED).sum()
        return {"loss": total / num_items_in_batch}

    def _install_for(self, is_short: bool) -> None:
        """Set the factors for segments of this kind."""
        if self._short is None:
            return
        factors = self._short if is_short else self._long
        assert factors is not None
        if self._owner.factors is not factors:
            self._owner.install(factors)

    def _sum(self, output: Any, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted nats of all counted tokens, shape ()."""
        tile = self._tile_tokens
        # One split, because each slice would have a gradient of the length of the segment.
        hidden = torch.split(output.last_hidden_state.flatten(0, 1), tile)
        following = torch.split(targets.flatten(), tile)
        each = [None] * len(hidden) if weights is None else torch.split(weights.flatten(), tile)
        sums = [
            checkpoint(self._sum_of_tile, output, *parts, use_reentrant=False, preserve_rng_state=False)
            for parts in zip(hidden, following, each, strict=True)
        ]
        return torch.stack(sums).sum()

    def _sum_of_tile(self, output: Any, hidden: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        with _returning(self._decoder, output, hidden.unsqueeze(0)):
            # The token ids have no effect, because the output of the decoder is replaced.
            logits = self._original(input_ids=targets.clamp(min=0).unsqueeze(0), use_cache=False).logits[0]
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if weights is None:
            return cross_entropy(precise, targets, ignore_index=UNCOUNTED, reduction="sum")
        return (cross_entropy(precise, targets, ignore_index=UNCOUNTED, reduction="none") * weights).sum()


@contextmanager
def _returning(decoder: nn.Module, output: Any, hidden: Tensor) -> Iterator[None]:
    """Inside the `with`, the decoder returns its output with these hidden states, for any input."""
    answer = copy.copy(output)
    answer.last_hidden_state = hidden
    with replaced(decoder, "forward", lambda *args, **kwargs: answer):
        yield


@contextmanager
def tiled_loss(model: Any, **settings: Any) -> Iterator[TiledLoss]:
    """Replace the model's forward with `TiledLoss`; restores it afterwards."""
    loss = TiledLoss(model, **settings)
    with replaced(model, "forward", loss):
        yield loss
