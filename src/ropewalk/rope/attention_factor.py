"""Attention factors: cos and sin are multiplied by one, so the attention logits by its square."""

import math


def yarn_attention_factor(extension_ratio: float) -> float:
    """Returns YaRN's factor 0.1 ln s + 1 (arXiv 2309.00071, Eq. 22: sqrt(1/t)); 1 for s at most 1.

    Args:
        extension_ratio: s = target length / original length.
    """
    return 0.1 * math.log(extension_ratio) + 1 if extension_ratio > 1 else 1.0


def longrope_attention_factor(extension_ratio: float, original_length: int) -> float:
    """Returns sqrt(1 + ln s / ln L), the factor that engines compute for `longrope`; 1 for s at most 1.

    The formula is that of LongRoPE's published code; its paper (arXiv 2402.13753) does not state one.

    Args:
        extension_ratio: s = target length / original length.
        original_length: L, tokens.
    """
    if extension_ratio <= 1:
        return 1.0
    return math.sqrt(1 + math.log(extension_ratio) / math.log(original_length))


def near_far_attention_factor(extension_ratio: float) -> float:
    """Returns 0.05 ln s + 1, half of what YaRN adds; 1 for s at most 1.

    It is the default of both parts of near-far factors: the far part's logits are those of trained distances,
    so that they need less than YaRN's.

    Args:
        extension_ratio: s = target length / original length.
    """
    return (1 + yarn_attention_factor(extension_ratio)) / 2
