"""Depths at which something is hidden in a text: 0 is its start, 1 its end."""

MOST_DEPTHS = 10


def evenly_spread(num_depths: int) -> list[float]:
    """Returns depths from 0 to 1, both included; 0.5 if there is only one."""
    return [0.5] if num_depths == 1 else [index / (num_depths - 1) for index in range(num_depths)]
