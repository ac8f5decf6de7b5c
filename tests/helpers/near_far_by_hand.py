"""Near-far factors for small models, and a slow reading with them: both rotations by hand, whole matrices."""

from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model

NAME = "by_hand"


def near_far(geometry: Any, target: int, window: int, **changes: Any) -> RescaleFactors:
    """Far factors that differ from pair to pair, and two attention factors."""
    steps = torch.linspace(1.5, target / geometry.original_length, geometry.num_pairs, dtype=torch.float64)
    values = {"attention_factor": 1.2, "near_attention_factor": 1.05, **changes}
    return RescaleFactors.single(
        geometry=geometry, target_length=target, rescale_factors=steps.tolist(), near_window=window
    ).replace(**values)


def logits_by_hand(model: Any, ids: Tensor, factors: RescaleFactors) -> Tensor:
    """Logits for rows without padding, of a base model whose pairs are halves of the rotated dimensions."""
    with _attention_by_hand(model, factors):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


class _Unrotated:
    """An `Installable` whose rotary does not rotate."""

    per_layer = False

    def __init__(self, factors: RescaleFactors) -> None:
        self.factors = factors

    def choose(self, positions: Tensor) -> Any:
        return self

    def cos_sin(self, positions: Tensor, layer_index: int) -> tuple[Tensor, Tensor]:
        zero = torch.zeros(*positions.shape, self.factors.geometry.num_pairs, dtype=torch.float64)
        return zero.cos(), zero.sin()

    def attach(self, model: Any) -> Any:
        return ()


@contextmanager
def _attention_by_hand(model: Any, factors: RescaleFactors) -> Any:
    def forward(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: Any = None, **_: Any
    ) -> Any:
        return _attend(module, factors, query, key, value, scaling).transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    with Model.wrap(model).using(_Unrotated(factors)):
        model.set_attn_implementation(NAME)
        try:
            yield
        finally:
            model.set_attn_implementation("sdpa")


def _attend(
    module: Any, factors: RescaleFactors, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
) -> Tensor:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    query, key, value = query.double(), *(part.double().repeat_interleave(groups, 1) for part in (key, value))
    window, tokens = factors.near_window, torch.arange(key.shape[2], dtype=torch.float64)[:, None]
    theta = torch.from_numpy(factors.geometry.inverse_frequencies())
    slow = theta / torch.tensor(factors.rescale_factors[module.layer_idx if factors.per_layer else 0])
    near, far = factors.near_attention_factor, factors.attention_factor

    kinds = getattr(module.config, "layer_types", None)
    slides = kinds is not None and kinds[module.layer_idx] == "sliding_attention"
    if slides and factors.geometry.layer_type is not None:  # its layers have another rotary, which rotates
        near_logits = query @ key.mT
    else:
        near_logits = _rotate(query, tokens * theta, near) @ _rotate(key, tokens * theta, near).mT
    of_query = (tokens - window) * slow + window * theta
    far_logits = _rotate(query, of_query, far) @ _rotate(key, tokens * slow, far).mT

    distances = tokens - tokens.T
    logits = torch.where((distances < window) | torch.tensor(slides), near_logits, far_logits) * scaling
    unseen = distances < 0
    if slides:
        unseen = unseen | (distances >= module.config.sliding_window)
    return (logits.masked_fill(unseen, -torch.inf).softmax(-1) @ value).float()


def _rotate(states: Tensor, angles: Tensor, factor: float) -> Tensor:
    half = angles.shape[-1]
    first, second, rest = states[..., :half], states[..., half : 2 * half], states[..., 2 * half :]
    cos, sin = angles.cos() * factor, angles.sin() * factor
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), -1)
