"""Small random models of several families, a factor set with two boundaries, and what is right for a row."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CohereConfig,
    DeepseekV2Config,
    Gemma2Config,
    GlmConfig,
    GPTNeoXConfig,
    LlamaConfig,
    Phi3Config,
    Qwen3_5TextConfig,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.rope.schemes import scheme_factors

WINDOW, BOUNDARY, LONGEST = 16, 24, 64
# Of prompts: one stays short, one crosses both boundaries, one the second; one starts on a boundary, one is
# long already.
LENGTHS = (3, 12, 20, WINDOW, 30)
NUM_NEW = 14
SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 2, "max_position_embeddings": WINDOW, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": WINDOW,
    "short_factor": [1.0] * 8, "long_factor": [3.0] * 8,
}  # fmt: skip
MLA = {
    "kv_lora_rank": 16, "q_lora_rank": None, "qk_nope_head_dim": 8, "qk_rope_head_dim": 16, "v_head_dim": 16,
    "head_dim": 16, "first_k_dense_replace": 4, "n_routed_experts": 2,
}  # fmt: skip
WITH_HEADS = {"num_key_value_heads": 1, "head_dim": 16}

FAMILIES = {
    "llama": LlamaConfig(**SIZES, rope_parameters=PLAIN),
    "qwen3": Qwen3Config(**SIZES, **WITH_HEADS, rope_parameters=PLAIN),
    "phi3": Phi3Config(  # drops its cache at the switch by itself
        **{**SIZES, "max_position_embeddings": LONGEST, "rope_parameters": LONGROPE},
        original_max_position_embeddings=WINDOW,
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, rope_parameters={**PLAIN, "partial_rotary_factor": 0.5}),
    "gemma2": Gemma2Config(**SIZES, **WITH_HEADS, rope_parameters=PLAIN, sliding_window=LONGEST),
    "cohere": CohereConfig(**SIZES, rope_parameters=PLAIN),
    "glm": GlmConfig(**SIZES, **WITH_HEADS, rope_parameters={**PLAIN, "partial_rotary_factor": 0.5}),
    "qwen3_5_text": Qwen3_5TextConfig(  # takes a position for each of time, height and width
        **SIZES,
        **WITH_HEADS,
        rope_parameters={**PLAIN, "mrope_section": [4, 2, 2]},
        layer_types=["full_attention"] * 4,
    ),
    "deepseek_v2": DeepseekV2Config(**SIZES, **MLA, rope_parameters=PLAIN),
}


def build(family: str = "llama", **changes: Any) -> Any:
    config = copy.deepcopy(FAMILIES[family])
    for name, value in changes.items():
        setattr(config, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def factor_set(model: Any) -> FactorSet:
    """Up to 16 tokens, to 24, to 64; the entries differ in lambda, in n-hat and in the attention factor."""
    geometry = describe(model.config, original_length=WINDOW).geometry
    short, middle, long = (scheme_factors("pi", geometry, end) for end in (WINDOW, BOUNDARY, LONGEST))
    return FactorSet.of([short, middle.replace(num_start_tokens=3), long.replace(attention_factor=1.2)])


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 50, shape, generator=torch.Generator().manual_seed(seed))


def padded(prompts: list[Tensor]) -> dict[str, Tensor]:
    """Prompts of shape (1, length) as one batch with padding on the left."""
    width = max(prompt.shape[1] for prompt in prompts)
    ids = [torch.nn.functional.pad(prompt, (width - prompt.shape[1], 0)) for prompt in prompts]
    mask = [(torch.arange(width) >= width - prompt.shape[1]).long() for prompt in prompts]
    return {"input_ids": torch.cat(ids), "attention_mask": torch.stack(mask)}


def difference(expected: Tensor, found: Tensor) -> float:
    """Of the largest logit."""
    return float((expected - found).abs().max() / expected.abs().max())


class Fresh:
    """What one fresh forward over the whole sequence says, under factors that are put in by hand."""

    def __init__(self, model: Any, entries: FactorSet) -> None:
        self.twin = copy.deepcopy(model)
        self.entries = entries

    @torch.no_grad()
    def logits(self, ids: Tensor, serving: int) -> Tensor:
        """Of a sequence (1, tokens) under the factors for `serving` tokens, shape (tokens, words)."""
        window = self.entries.geometry.original_length
        Model.wrap(self.twin, original_length=window).install(self.entries.for_length(serving))
        result: Tensor = self.twin(input_ids=ids, use_cache=False).logits[0]
        return result

    def steps(self, ids: Tensor, num_prompt: int, policy: str) -> Tensor:
        """The logits that each new token of a finished sequence should have been chosen from."""
        by_entry: dict[int, Tensor] = {}
        steps = []
        for length in range(num_prompt, ids.shape[1]):
            serving = ids.shape[1] if policy == "pin" else length
            entry = self.entries.for_length(serving).target_length
            if entry not in by_entry:
                by_entry[entry] = self.logits(ids, serving)
            steps.append(by_entry[entry][length - 1])
        return torch.stack(steps)


def prompts(lengths: Sequence[int] = LENGTHS) -> list[Tensor]:
    return [tokens(1, length, seed=length) for length in lengths]


def generate(model: Any, num_new: int = NUM_NEW, **inputs: Any) -> Any:
    """Greedy unless given otherwise, and never ended early."""
    return model.generate(
        **{"do_sample": False, "max_new_tokens": num_new, "min_new_tokens": num_new, **inputs},
        return_dict_in_generate=True,
        output_logits=True,
    )


def check_rows(model: Any, fresh: Fresh, texts: list[Tensor]) -> None:
    """Each text is read under its own factors, alone and in a batch; other entries would show in the last."""
    together = model(**padded(texts)).logits
    for row, text in enumerate(texts):
        length = text.shape[1]
        expected = fresh.logits(text, length)
        assert difference(expected, model(input_ids=text).logits[0]) < 1e-5
        assert difference(expected, together[row, -length:]) < 1e-5
    last, length = texts[-1], texts[-1].shape[1]
    others = [fresh.logits(last, serving) for serving in (WINDOW, BOUNDARY)]
    assert all(difference(fresh.logits(last, length), other) > 1e-2 for other in others)


def check_steps(
    fresh: Fresh, output: Any, lengths: Sequence[int], policy: str, tolerance: float = 1e-4
) -> None:
    """Every new token of every row was chosen from the right logits."""
    found = torch.stack(output.logits, dim=1)
    for row, length in enumerate(lengths):
        ids = output.sequences[row : row + 1]
        own = ids[:, ids.shape[1] - found.shape[1] - length :]
        assert difference(fresh.steps(own, length, policy), found[row]) < tolerance
