"""Which layers of a model rotate, and which see only a window: what its configuration says layer by layer.

scripts/list_families.py holds this to what the layers of every family do.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ropewalk.models.config_fields import Fields

# Layers of these kinds have no attention, so nothing in them is rotated.
KINDS_WITHOUT_ATTENTION = ("linear_attention", "mamba", "mamba2", "conv", "recurrent")
# In these families only layers with a sliding window rotate; the others have no positions (NoPE).
ROTATE_SLIDING_LAYERS = frozenset(
    {"afmoe", "cohere2", "cohere2_moe", "exaone4", "exaone_moe", "flint", "kolibri1"}
)
# Of those, the ones in which every layer rotates if the model has no window.
ROTATE_ALL_WITHOUT_WINDOW = frozenset({"exaone4", "exaone_moe", "kolibri1"})
WINDOWS = (("sliding_window", "sliding_attention"), ("attention_chunk_size", "chunked_attention"))


@dataclass(frozen=True, kw_only=True)
class AttentionLayers:
    """What each layer does with positions.

    Attributes:
        window: tokens that layers in `sees_window` see, None if there are none.
        sees_window: for each layer, whether it sees only so far (sliding or chunked).
        rotates: for each layer, whether it rotates queries and keys.
        attends: for each layer, whether it has attention.
    """

    window: int | None
    sees_window: tuple[bool, ...]
    rotates: tuple[bool, ...]
    attends: tuple[bool, ...]

    def notes(self) -> Iterator[str]:
        """A sentence where factors can't do what they do elsewhere."""
        far = [not sees_window for sees_window in self.sees_window]
        if any(far) and not any(map(operator.and_, far, self.rotates)):
            yield (
                f"Only layers with a window of {self.window} tokens rotate, and the {sum(far)} layers that "
                f"see further have no rotary: factors change nothing in what these see."
            )


def read_attention_layers(fields: Fields, num_layers: int) -> AttentionLayers:
    """Read what a configuration says layer by layer.

    Raises:
        ModelError: a list that does not have a value for each layer, or a window that is no size.
    """
    kinds = fields.entries("layer_types", num_layers) or fields.entries("layers_block_type", num_layers)
    window, sees_window = _windows(fields, kinds, num_layers)
    attends = [kind not in KINDS_WITHOUT_ATTENTION for kind in kinds or [""] * num_layers]
    model_type = str(fields.get("model_type"))
    by_window = model_type in ROTATE_SLIDING_LAYERS
    if by_window and (window is not None or model_type not in ROTATE_ALL_WITHOUT_WINDOW):
        rotates = list(map(operator.or_, sees_window, _dense_layers(fields, num_layers)))
    else:
        with_rope = fields.entries("no_rope_layers", num_layers) or [1] * num_layers  # 1: it rotates
        rotates = [
            bool(rope) and has_attention for rope, has_attention in zip(with_rope, attends, strict=True)
        ]
    return AttentionLayers(
        window=window, sees_window=tuple(sees_window), rotates=tuple(rotates), attends=tuple(attends)
    )


def _windows(fields: Fields, kinds: list[Any] | None, num_layers: int) -> tuple[int | None, list[bool]]:
    """(window in tokens, for each layer whether it sees only so far)."""
    for attribute, windowed in WINDOWS:
        window = fields.size(attribute)
        sees_window = [True] * num_layers if kinds is None else [kind == windowed for kind in kinds]
        if window is not None and any(sees_window):
            return window, sees_window
    return None, [False] * num_layers


def _dense_layers(fields: Fields, num_layers: int) -> list[bool]:
    """The layers that rotate whatever they see: Cohere 2 MoE's first ones, which are dense."""
    if fields.get("prefix_dense_sliding_window_pattern") != 1:
        return [False] * num_layers
    return [kind == "dense" for kind in fields.entries("mlp_layer_types", num_layers) or [""] * num_layers]
