"""Which layers of a model rotate, and which see only a window, from its configuration.

scripts/list_families.py compares this with the layers that transformers builds for every family.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ropewalk.models.config_fields import Fields

# Layers of these kinds have no attention, so they rotate nothing.
KINDS_WITHOUT_ATTENTION = ("linear_attention", "mamba", "mamba2", "conv", "recurrent")
# In these families only layers with a sliding window rotate; the others have no positions (NoPE).
ROTATE_SLIDING_LAYERS = frozenset(
    {"afmoe", "cohere2", "cohere2_moe", "exaone4", "exaone_moe", "flint", "kolibri1"}
)
# Of these, the families in which every layer rotates if the model has no window.
ROTATE_ALL_WITHOUT_WINDOW = frozenset({"exaone4", "exaone_moe", "kolibri1"})
# Of these, the families in which the kind of a layer decides, with or without a window.
ROTATE_BY_KIND = frozenset({"afmoe"})
# The keys that limit how far a layer sees, with the kinds of layer that they limit.
WINDOWS = (
    ("sliding_window", ("sliding_attention", "hybrid_sliding")),
    ("attention_chunk_size", ("chunked_attention",)),
)


@dataclass(frozen=True, kw_only=True)
class AttentionLayers:
    """How each layer uses positions.

    Attributes:
        window: tokens that layers in `sees_window` attend to, None if there are no such layers.
        kinds: for each layer, the name of its kind in the configuration; empty if the configuration names no
            kinds.
        attends: for each layer, whether it has attention.
        sees_window: for each layer, whether its attention is limited to a window (sliding or chunked).
        rotates: for each layer, whether factors change how it rotates queries and keys.
    """

    window: int | None
    kinds: tuple[str, ...]
    attends: tuple[bool, ...]
    sees_window: tuple[bool, ...]
    rotates: tuple[bool, ...]

    def notes(self) -> Iterator[str]:
        """A sentence for each limit on what factors change in this model."""
        far = [not sees_window for sees_window in self.sees_window]
        if any(far) and not any(map(operator.and_, far, self.rotates)):
            yield (
                f"Only layers with a window of {self.window} tokens rotate, and the {sum(far)} layers that "
                f"see further have no rotary: factors do not change these."
            )


def read_attention_layers(
    fields: Fields, num_layers: int, rotates_kind: Callable[[int, str], bool] | None = None
) -> AttentionLayers:
    """Read what a configuration says layer by layer.

    Args:
        rotates_kind: whether factors change a layer, by its index and kind, where the configuration has
            rotary parameters for each layer type; by default the rule of the family decides.

    Raises:
        ModelError: a list does not have a value for each layer, or a window is not a whole number above 0.
    """
    kinds = layer_kinds(fields, num_layers)
    window, sees_window = _windows(fields, kinds)
    attends = [kind not in KINDS_WITHOUT_ATTENTION for kind in kinds]
    if rotates_kind is not None:
        rotates = [rotates_kind(index, kind) for index, kind in enumerate(kinds)]
    else:
        rotates = _rotating_layers(fields, kinds, window, sees_window)
    return AttentionLayers(
        window=window,
        kinds=kinds,
        attends=tuple(attends),
        sees_window=tuple(sees_window),
        rotates=tuple(map(operator.and_, rotates, attends)),
    )


def layer_kinds(fields: Fields, num_layers: int) -> tuple[str, ...]:
    """The name of each layer's kind, empty where the configuration names none.

    Raises:
        ModelError: a list does not have a value for each layer.
    """
    kinds = fields.entries("layer_types", num_layers) or fields.entries("layers_block_type", num_layers)
    return tuple(str(kind) for kind in kinds) if kinds else ("",) * num_layers


def _rotating_layers(
    fields: Fields, kinds: tuple[str, ...], window: int | None, sees_window: list[bool]
) -> list[bool]:
    num_layers, model_type = len(kinds), str(fields.get("model_type"))
    if model_type in ROTATE_BY_KIND:
        return [kind == "sliding_attention" for kind in kinds]
    by_window = model_type in ROTATE_SLIDING_LAYERS
    if by_window and (window is not None or model_type not in ROTATE_ALL_WITHOUT_WINDOW):
        return list(map(operator.or_, sees_window, _dense_layers(fields, num_layers)))
    with_rope = fields.entries("no_rope_layers", num_layers) or [1] * num_layers  # 1: the layer rotates
    return [bool(rope) for rope in with_rope]


def _windows(fields: Fields, kinds: tuple[str, ...]) -> tuple[int | None, list[bool]]:
    """(window in tokens, for each layer whether it is limited to the window)."""
    for attribute, windowed in WINDOWS:
        window = fields.size(attribute)
        sees_window = [kind in windowed if kind else True for kind in kinds]
        if window is not None and any(sees_window):
            return window, sees_window
    return None, [False] * len(kinds)


def _dense_layers(fields: Fields, num_layers: int) -> list[bool]:
    """The layers that rotate with or without a window: the first, dense layers of Cohere 2 MoE."""
    if fields.get("prefix_dense_sliding_window_pattern") != 1:
        return [False] * num_layers
    return [kind == "dense" for kind in fields.entries("mlp_layer_types", num_layers) or [""] * num_layers]
