"""Extension ratio to attention factor: how much cos and sin grow, and so the logits sharpen."""

import math


def yarn_attention_factor(extension_ratio: float) -> float:
    """0.1 ln s + 1 (YaRN, arXiv 2309.00071, Eq. 22: sqrt(1/t)); 1 where nothing is extended."""
    return 0.1 * math.log(extension_ratio) + 1 if extension_ratio > 1 else 1.0


def longrope_attention_factor(extension_ratio: float, original_length: int) -> float:
    """sqrt(1 + ln s / ln L), what engines compute for longrope (LongRoPE's code; its paper is silent)."""
    if extension_ratio <= 1:
        return 1.0
    return math.sqrt(1 + math.log(extension_ratio) / math.log(original_length))
