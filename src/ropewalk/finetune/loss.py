"""The loss of a batch without the logits of a whole segment, from the model's own forward.

Stands in for the forward of a causal model: the decoder reads the batch, then the model's own last steps (its
output matrix, and whatever its family does to logits) are taken for a tile of tokens at a time, and once more
for each tile in the backward pass. Logits of 131072 tokens and a vocabulary of 128k would be 64 GiB.
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

TILE_LOGITS = 2**22  # logits that exist at once, where that is not too few tokens
FEWEST_TOKENS = 256


class TiledLoss:
    """A model's forward while it is trained; without labels it is the model's own.

    The loss is the sum of the counted tokens' nats, each times its weight, over `num_items_in_batch`: so a
    step's gradient is that of the mean over all counted tokens of the step, whatever they are split into.
    Losses that a family adds of its own (mixtures of experts balance theirs) are left out.

    Args:
        tile_tokens: None takes what suits the vocabulary.
        long, short: factors for segments of the two kinds; without `short` nothing is changed. The model has
            factors installed.
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
        self._model = model
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
        """As the model's own; with `shift_labels`, shape (rows, length), only the loss comes back."""
        if shift_labels is None:
            own = {} if labels is None else {"labels": labels}
            return self._original(*args, **own, **kwargs)
        self._turn(is_short)
        named = {name: kwargs[name] for name in ("input_ids", "position_ids") if kwargs.get(name) is not None}
        output = self._decoder(**named, use_cache=False)
        total = self._sum(output, shift_labels, loss_weights)
        if num_items_in_batch is None:
            num_items_in_batch = (shift_labels != UNCOUNTED).sum()
        return {"loss": total / num_items_in_batch}

    def _turn(self, is_short: bool) -> None:
        if self._short is None:
            return
        wanted = self._short if is_short else self._long
        assert wanted is not None
        if self._owner.factors is not wanted:
            self._owner.install(wanted)

    def _sum(self, output: Any, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted nats of all counted tokens, shape ()."""
        tile = self._tile_tokens
        # Split once: slices would each have a gradient as long as the segment.
        hidden = torch.split(output.last_hidden_state.flatten(0, 1), tile)
        following = torch.split(targets.flatten(), tile)
        each = [None] * len(hidden) if weights is None else torch.split(weights.flatten(), tile)
        sums = [
            checkpoint(self._sum_of_tile, output, *parts, use_reentrant=False, preserve_rng_state=False)
            for parts in zip(hidden, following, each, strict=True)
        ]
        return torch.stack(sums).sum()

    def _sum_of_tile(self, output: Any, hidden: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        with _answering(self._decoder, output, hidden.unsqueeze(0)):
            # Which tokens are named makes no difference: the decoder is not asked.
            logits = self._original(input_ids=targets.clamp(min=0).unsqueeze(0), use_cache=False).logits[0]
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if weights is None:
            return cross_entropy(precise, targets, ignore_index=UNCOUNTED, reduction="sum")
        return (cross_entropy(precise, targets, ignore_index=UNCOUNTED, reduction="none") * weights).sum()


@contextmanager
def _answering(decoder: nn.Module, output: Any, hidden: Tensor) -> Iterator[None]:
    """Meanwhile the decoder answers with these hidden states, and else as it did, whatever it is asked."""
    answer = copy.copy(output)
    answer.last_hidden_state = hidden
    with replaced(decoder, "forward", lambda *args, **kwargs: answer):
        yield


@contextmanager
def tiled_loss(model: Any, **settings: Any) -> Iterator[TiledLoss]:
    """`TiledLoss` in the place of the model's forward; afterwards it is as it was."""
    loss = TiledLoss(model, **settings)
    with replaced(model, "forward", loss):
        yield loss
