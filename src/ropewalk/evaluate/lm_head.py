"""Tokens through a model without more logits than are wanted: decoder first, head on chosen positions.

`model(input_ids).logits` of 131072 tokens and a vocabulary of 128k is 64 GiB in float32. So hidden states are
read first, and the head is applied to a few positions at a time. Families finish their logits differently
(scaled in granite and cohere, capped in gemma2), so a model's output matrix is checked once against the
model's own logits; where it differs, the model itself is made to finish our hidden states.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ropewalk.errors import EvaluationError
from ropewalk.models.attention import cut_back, piecewise_attention
from ropewalk.models.rotary import find_installed

PROBE_LENGTH = 4
LENGTH_DEPENDENT = ("dynamic", "longrope")
LARGE = 64.0  # a cap on logits shows where hidden states are this much larger


class Reader:
    """Reads tokens piece by piece; later pieces see the earlier ones through the model's KV cache.

    No mask is passed, so that attention takes its causal path; only the future is masked.

    Attributes:
        vocabulary_size: how many logits a position has.
        matrix: shape (vocabulary, hidden_size), if float32 logits are its product with hidden states and
            nothing else; None in other models.
    """

    def __init__(self, model: Any) -> None:
        self.vocabulary_size: int = model.config.get_text_config(decoder=True).vocab_size
        self._decoder, self._head = _parts(model)
        self.matrix = _plain_matrix(self._head, model.device)
        self._model = model
        self._cache: Any = None

    def read(self, ids: Tensor, *, keep: bool) -> Tensor:
        """Last hidden states of the next tokens, shape (batch, n, hidden_size), for ids of shape (batch, n).

        With `keep` the next piece sees this one and all before it.
        """
        earlier = {} if self._cache is None else {"past_key_values": self._cache}
        is_later_piece = bool(earlier) and ids.shape[1] > 1
        with piecewise_attention(self._model) if is_later_piece else nullcontext():
            output = self._decoder(input_ids=ids, use_cache=keep, **earlier)
        self._cache = output.past_key_values if keep else None
        return output.last_hidden_state  # type: ignore[no-any-return]

    def go_back_to(self, num_tokens: int) -> int:
        """Forget all but the first `num_tokens` tokens, and return how many are known: none if that can't be.

        A window that has moved on and a recurrent state can't be taken back, and a model whose own scaling
        depends on the length would have turned them otherwise.
        """
        cache, self._cache = self._cache, None
        if turns_by_length(self._model) or not cut_back(cache, num_tokens):
            return 0
        self._cache = cache
        return num_tokens

    def pieces(
        self, ids: Tensor, read_chunk: int | None, *, keep: bool = False
    ) -> Iterator[tuple[int, Tensor]]:
        """(index of its first token, hidden states) of each piece of `read_chunk` tokens; None reads at once.

        With `keep`, what is read afterwards sees all of it.

        A model whose own scaling depends on the length (dynamic, longrope) is read at once in any case: its
        first pieces would turn otherwise than its last.
        """
        length = ids.shape[1]
        if read_chunk is None or read_chunk >= length or turns_by_length(self._model):
            yield 0, self.read(ids, keep=keep)
            return
        for start in range(0, length, read_chunk):
            yield start, self.read(ids[:, start : start + read_chunk], keep=True)

    def logits(self, hidden: Tensor) -> Tensor:
        """The model's own logits, shape (n, vocabulary), for hidden states of shape (n, hidden_size)."""
        return self._head(hidden)


def turns_by_length(model: Any) -> bool:
    """Whether the model's own rotary, with no factors installed, turns otherwise in longer texts."""
    return find_installed(model) is None and any(
        getattr(module, "rope_type", None) in LENGTH_DEPENDENT for module in model.modules()
    )


def find_decoder(model: Any) -> nn.Module:
    """The module whose last hidden states the model makes its logits of.

    Raises:
        EvaluationError: there is none.
    """
    with torch.no_grad():
        decoder, _ = _parts(model)
    return decoder


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """No gradients, no dropout, and the model in its own mode again afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


# ---------------------------------------------------------------- how a family makes logits

_found: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()


def believe_twin(model: Any, twin: Any) -> None:
    """Make `model`'s logits in the way that `twin` does, which is looked at in its place.

    Both are of one class and configuration but for size. It spares a comparison where that would be dear, or
    impossible: fake tensors, on which memory is planned, have no values.
    """
    assert type(model) is type(twin)
    with torch.no_grad():
        _found[model] = _found.get(twin) or _probe(twin)


def _parts(model: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module that gives last hidden states, and the function from these to logits."""
    index, plain_head = _found.get(model) or _probe(model)
    decoder = _decoders(model)[index]
    return decoder, model.get_output_embeddings() if plain_head else _finished_by(model, decoder)


def _decoders(model: Any) -> list[Any]:
    """Where the decoder may be; some families' `get_decoder` returns something else."""
    return [model.get_decoder(), model.base_model, getattr(model, "model", None)]


def _probe(model: Any) -> tuple[int, bool]:
    """(which of `_decoders`, whether the output matrix alone makes its logits), by comparing on a few tokens.

    Raises:
        EvaluationError: no decoder's hidden states give the model's own logits.
    """
    ids = torch.arange(1, PROBE_LENGTH + 1, device=model.device).unsqueeze(0)
    own = model(input_ids=ids, use_cache=False).logits
    for index, decoder in enumerate(_decoders(model)):
        if not isinstance(decoder, nn.Module) or decoder is model:
            continue
        try:
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
            finished = _finished_by(model, decoder)
            if not _equal(finished(hidden), own[0]):
                continue
        except (TypeError, AttributeError):
            continue
        matrix = model.get_output_embeddings()
        plain = isinstance(matrix, nn.Module) and all(
            _equal(matrix(hidden * scale), finished(hidden * scale)) for scale in (1.0, LARGE)
        )
        if bool(own.isfinite().all()):  # NaN equals nothing, and so tells nothing about the next reading
            _found[model] = index, plain
        return index, plain
    raise EvaluationError(
        f"{type(model).__name__} does not make its logits from its decoder's last hidden states, so it "
        f"can't be measured in pieces: name a model of another family."
    )


def _finished_by(model: Any, decoder: nn.Module) -> Callable[[Tensor], Tensor]:
    """Hidden states to logits through the model's own last steps, whatever they are.

    The model reads one token, and its decoder's answer is replaced by our hidden states on the way.
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


def _plain_matrix(head: Callable[[Tensor], Tensor], device: torch.device) -> Tensor | None:
    """The weights of a head that does nothing but multiply, where they can be used in parts."""
    bias = getattr(head, "bias", None)
    if type(head) is not nn.Linear or bias is not None or "forward" in vars(head):
        return None
    return head.weight if head.weight.dtype == torch.float32 and head.weight.device == device else None


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    largest = float(theirs.abs().nan_to_num().max())
    return torch.allclose(ours.float(), theirs.float(), rtol=0, atol=1e-6 * largest, equal_nan=True)
