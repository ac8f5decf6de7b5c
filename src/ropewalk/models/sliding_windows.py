"""The attributes of a loaded model that limit how far its layers see."""

from typing import Any

from torch import nn

WINDOW_ATTRIBUTES = ("sliding_window", "attention_window_size", "attention_chunk_size")
# A window that is longer than any sequence and fits in 32 bits, which kernels need. None is not possible: it
# disables the rotary in families that rotate only their sliding layers.
UNLIMITED_WINDOW = 2**30


def find_windows(decoder: nn.Module) -> list[tuple[Any, str]]:
    """(owner, attribute) of every limit: in configurations, which masks and caches read, and in modules."""
    owners: dict[int, Any] = {}
    for module in decoder.modules():
        owners.setdefault(id(module), module)
        config = getattr(module, "config", None)
        if config is not None:
            owners.setdefault(id(config), config)
    return [
        (owner, attribute)
        for owner in owners.values()
        for attribute in WINDOW_ATTRIBUTES
        if isinstance(value := vars(owner).get(attribute), int) and not isinstance(value, bool)
    ]
