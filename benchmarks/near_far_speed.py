"""What near-far attention costs, compared with plain SDPA attention of the same model.

The model has the sizes of a known one, and random weights. With fewer layers its vocabulary is smaller by the
same factor, so that each layer has its true share of the time.
"""

import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from evaluator import tokens
from measurements import Measurements
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.schemes import NEAR_FAR, scheme_factors

PLAIN, OURS = "plain", NEAR_FAR
PREFILL, DECODING, KEYS = "time of a prefill", "time of decoding", "memory of keys"
LIMITS = {PREFILL: 1.3, DECODING: 1.15, KEYS: 2.0}
NUM_STEPS = 64
WARM_UP = 128  # tokens beyond the near window

# The sizes of LlamaConfig, with all layers.
SIZES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_theta": 1e5,
    },
    "tiny": {
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rope_theta": 1e4,
    },
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """At one length.

    Attributes:
        seconds: best processor seconds of each side; the outer key is `PREFILL` or `DECODING`.
        key_bytes: of the keys in the cache of the plain side.
        extra_bytes: what a prefill with near-far factors leaves in memory, less what a plain one leaves.
        rounds: how often each side was timed.
    """

    length: int
    seconds: Mapping[str, Mapping[str, float]]
    key_bytes: int
    extra_bytes: int
    rounds: int

    @property
    def ratios(self) -> dict[str, float]:
        """Near-far / plain, for each of `LIMITS`."""
        times = {what: of_side[OURS] / of_side[PLAIN] for what, of_side in self.seconds.items()}
        return {**times, KEYS: 1 + self.extra_bytes / self.key_bytes}


def costs(values: Mapping[str, Any]) -> list[Cost]:
    """Of every length with timed rounds and measured memory."""
    found = []
    for name, memory in values.items():
        if not name.startswith("memory "):
            continue
        length = int(name.removeprefix("memory "))
        rounds = [one for key, one in values.items() if key.startswith(f"seconds {length} / ")]
        if rounds:
            seconds = {
                what: {side: min(one[side][what] for one in rounds) for side in (PLAIN, OURS)}
                for what in (PREFILL, DECODING)
            }
            found.append(Cost(length=length, seconds=seconds, rounds=len(rounds), **memory))
    return found


def random_model(size: str, num_layers: int) -> Model:
    """A Llama with random weights."""
    sizes = dict(SIZES[size])
    all_layers, theta = sizes.pop("num_hidden_layers"), sizes.pop("rope_theta")
    sizes["vocab_size"] = sizes["vocab_size"] * num_layers // all_layers
    torch.manual_seed(0)
    config = LlamaConfig(
        **sizes,
        num_hidden_layers=num_layers,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    return Model.wrap(LlamaForCausalLM(config).eval())


class SpeedBench:
    """Times a model with and without near-far factors; both sides take turns within one process."""

    def __init__(self, model: Model, kept: Measurements, window: int, longest: int) -> None:
        """`window`: W in tokens; 0 for a quarter of the model's. `longest`: the longest text, tokens."""
        self.model, self.kept = model, kept
        length = model.geometry.original_length
        window = window or length // 4
        target = max(longest, 2 * length)  # within the window there are no near-far factors
        near_far = scheme_factors(f"{NEAR_FAR}:window={window}", model.geometry, target)
        self.factors: dict[str, RescaleFactors | None] = {PLAIN: None, OURS: near_far}
        self.warm_up = WARM_UP + window

    def measure(self, length: int, rounds: int) -> None:
        """Every round times each side once."""
        for number in range(rounds):
            order = (PLAIN, OURS) if number % 2 else (OURS, PLAIN)

            def run(order: tuple[str, ...] = order) -> dict[str, dict[str, float]]:
                assert self._is_warm
                return {side: self._seconds(side, length) for side in order}

            print(f"speed: {length} tokens, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            self.kept.measure(f"seconds {length} / {number}", run)
        self.kept.measure(f"memory {length}", lambda: self._memory(length))

    @cached_property
    def _is_warm(self) -> bool:
        for side in (PLAIN, OURS):
            self._seconds(side, self.warm_up)
        return True

    @torch.no_grad()
    def _seconds(self, side: str, length: int) -> dict[str, float]:
        """Processor seconds, which other processes change less than those of a clock."""
        with self.model.using(self.factors[side]):
            started = time.process_time()
            cache = self._prefill(length)
            read = time.process_time()
            step = torch.zeros(1, 1, dtype=torch.long)
            for _ in range(NUM_STEPS):
                self.model.model(input_ids=step, past_key_values=cache)
            return {PREFILL: read - started, DECODING: time.process_time() - read}

    def _memory(self, length: int) -> dict[str, int]:
        plain, of_keys = self._left(PLAIN, length)
        ours, _ = self._left(OURS, length)
        return {"key_bytes": of_keys, "extra_bytes": ours - plain}

    @torch.no_grad()
    def _left(self, side: str, length: int) -> tuple[int, int]:
        """Bytes that a prefill leaves in memory, and those of the keys in its cache.

        It is the second prefill, because tables of cos and sin stay from the first one for all later texts.
        """
        with self.model.using(self.factors[side]):
            self._prefill(length)
            before = live_bytes()
            cache = self._prefill(length)
            return live_bytes() - before, sum(layer.keys.nbytes for layer in cache.layers)

    def _prefill(self, length: int) -> Any:
        """The cache after a prefill."""
        ids = tokens(self.model.model, length).unsqueeze(0)
        return self.model.model(input_ids=ids, logits_to_keep=1, use_cache=True).past_key_values


def live_bytes() -> int:
    """Of all tensors but parameters that Python knows, whatever refers to them."""
    gc.collect()
    storages = [one.untyped_storage() for one in gc.get_objects() if type(one) is Tensor]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
