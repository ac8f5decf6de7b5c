"""The decoder of a causal model, and how the model computes logits from the decoder's last hidden states.

Some families change the logits after the output matrix (scaled in granite and cohere, capped in gemma2). The
product with the output matrix is compared once with the model's own logits; if they differ, logits are
computed by the model's own last steps.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import EvaluationError

PROBE_LENGTH = 4
LARGE = 64.0  # scale of the hidden states, which makes a cap on logits visible


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """Computes logits from hidden states.

    Attributes:
        model: the causal model.
        decoder: its module that returns the last hidden states.
        is_plain: whether the output matrix alone gives the logits.
        is_certain: whether this was tested on finite numbers.
    """

    model: Any
    decoder: nn.Module
    is_plain: bool
    is_certain: bool = True

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own logits, shape (n, vocabulary), for hidden states of shape (n, hidden_size)."""
        if self.is_plain:
            logits: Tensor = self.model.get_output_embeddings()(hidden)
            return logits.to(hidden.device)
        return _finished_by(self.model, self.decoder)(hidden)

    @property
    def matrix(self) -> Tensor | None:
        """The weights of a head that is a plain product and can be used in parts; else None."""
        head: Any = self.model.get_output_embeddings() if self.is_plain else None
        bias = getattr(head, "bias", None)
        if type(head) is not nn.Linear or bias is not None or "forward" in vars(head):
            return None
        weight: Tensor = head.weight
        return weight if weight.dtype == torch.float32 and weight.device == self.model.device else None


def find_head(model: Any) -> Head:
    """Find the decoder by comparing logits on a few tokens.

    Raises:
        EvaluationError: no decoder's hidden states give the model's own logits.
    """
    ids = torch.arange(1, PROBE_LENGTH + 1, device=model.device).unsqueeze(0)
    with evaluating(model):
        own = model(input_ids=ids, use_cache=False).logits
        for decoder in _candidates(model):
            try:
                hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[0].to(ids.device)
                finished = _finished_by(model, decoder)
                if not _equal(finished(hidden), own[0]):
                    continue
            except (TypeError, AttributeError):
                continue
            matrix = model.get_output_embeddings()
            is_plain = isinstance(matrix, nn.Module) and all(
                _equal(matrix(hidden * scale), finished(hidden * scale)) for scale in (1.0, LARGE)
            )
            # NaN equals nothing, so this result is not valid for other tokens.
            is_certain = bool(own.isfinite().all())
            return Head(model=model, decoder=decoder, is_plain=is_plain, is_certain=is_certain)
    raise EvaluationError(
        f"{type(model).__name__} does not make its logits from its decoder's last hidden states, so it "
        f"can't be measured in pieces: name a model of another family."
    )


def head_of_twin(model: Any, twin: Head) -> Head:
    """The head of a model that has the class and, except for its size, the configuration of another model.

    This avoids a comparison that is expensive, or impossible on fake tensors (for planning memory), which
    have no values.
    """
    assert type(model) is type(twin.model)
    index = _candidates(twin.model).index(twin.decoder)
    return Head(model=model, decoder=_candidates(model)[index], is_plain=twin.is_plain)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; restores the mode of the model afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _candidates(model: Any) -> list[nn.Module]:
    """Modules that may be the decoder; the `get_decoder` of some families returns something else."""
    found = [model.get_decoder(), model.base_model, getattr(model, "model", None)]
    return [module for module in found if isinstance(module, nn.Module) and module is not model]


def _finished_by(model: Any, decoder: nn.Module) -> Callable[[Tensor], Tensor]:
    """A function from hidden states to logits that runs the model's own last steps.

    The model reads one token, and a hook replaces the decoder's output by the given hidden states.
    """

    def finish(hidden: Tensor) -> Tensor:
        def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            output.last_hidden_state = hidden.unsqueeze(0)
            return output

        hook = decoder.register_forward_hook(replace)
        try:
            token = torch.zeros((1, 1), dtype=torch.int64, device=hidden.device)
            return model(input_ids=token, use_cache=False).logits[0]  # type: ignore[no-any-return]
        finally:
            hook.remove()

    return finish


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    theirs = theirs.to(ours.device)
    largest = float(theirs.abs().nan_to_num().max())
    return torch.allclose(ours.float(), theirs.float(), rtol=0, atol=1e-6 * largest, equal_nan=True)
