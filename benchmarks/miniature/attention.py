"""How much attention the first tokens get: the sink that LongRoPE's n-hat leaves unrescaled."""

from collections.abc import Sequence
from typing import Any

import torch

from ropewalk.evaluate.lm_head import evaluating
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.text.tokens import TokenDocument


def attention_on_first(
    loaded: Model, document: TokenDocument, factors: RescaleFactors | None, num_first: Sequence[int]
) -> dict[str, Any]:
    """The mean share of attention on a document's first tokens, by layer.

    Heads and the queries of the document's second half are averaged, so that every query sees all of the
    first tokens, and as many others.

    Args:
        loaded: with attention that returns its weights (`eager`).
        document: read whole.
        num_first: how many tokens count as first, each at most half of the document.

    Returns:
        `by_layer`: a row a layer, a column for each of `num_first`; `uniform`: what even attention gives.
    """
    length = len(document.ids)
    half = length // 2
    assert max(num_first) <= half, (num_first, length)
    with loaded.using(factors), evaluating(loaded.model):
        output = loaded.model(
            input_ids=document.ids.unsqueeze(0), output_attentions=True, use_cache=False, logits_to_keep=1
        )
    by_layer = []
    for weights in output.attentions:  # (1, heads, queries, keys)
        late = weights[0, :, half:, : max(num_first)].mean(dim=(0, 1), dtype=torch.float64)
        by_layer.append([float(late[:count].sum()) for count in num_first])
    keys = torch.arange(half + 1, length + 1, dtype=torch.float64)
    uniform = [float((count / keys).mean()) for count in num_first]
    return {"num_first": list(num_first), "by_layer": by_layer, "uniform": uniform}
