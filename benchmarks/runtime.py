"""What the runtime's rotary costs beside transformers' own, in a prefill and for a token at a time.

    OMP_NUM_THREADS=1 python benchmarks/runtime.py

On the bundled model, whose four layers are few: what a model pays once a forward weighs more here than in
any that is served. Three sides take turns within one process, and processor seconds count, so that other
processes slow none of them. A ratio is the median over rounds of one side's seconds by those of plain
transformers in the same round.

    plain       the model as it came
    longrope    transformers' own switching rotary, with the same factors
    runtime     ropewalk.apply with a set of two entries
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import ropewalk
from evaluator import processor, publish
from ropewalk.models.longrope_config import longrope_keys
from ropewalk.models.model import load_model
from ropewalk.models.scale_model import scale_model_path

WINDOW, TARGET = 256, 4096
PREFILL, CONTEXT, STEPS = 2048, 1024, 32
SIDES = ("plain", "longrope", "runtime")


def models() -> dict[str, Any]:
    plain = load_model("scale-model")
    short, long = (ropewalk.scheme_factors(name, plain.geometry, TARGET) for name in ("none", "yarn"))
    keys = longrope_keys(long, long)["rope_parameters"]
    config = copy.deepcopy(plain.model.config)
    config.rope_parameters = {**keys, "short_factor": list(short.rescale_factors[0])}
    config.max_position_embeddings = TARGET
    path, kind = scale_model_path(), {"dtype": torch.float32, "attn_implementation": "sdpa"}
    switching = AutoModelForCausalLM.from_pretrained(path, config=config, **kind).eval()
    entries = ropewalk.FactorSet.of([short.replace(target_length=WINDOW), long])
    return {
        "plain": plain.model,
        "longrope": switching,
        "runtime": ropewalk.apply(copy.deepcopy(plain.model), entries),
    }


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(5, 2000, (rows, length), generator=torch.Generator().manual_seed(length))


def prefill(model: Any) -> float:
    ids = tokens(1, PREFILL)
    started = time.process_time()
    model(input_ids=ids, logits_to_keep=1)
    return time.process_time() - started


def decode(model: Any) -> float:
    """A token at a time after a context, in a loop over forward."""
    ids = tokens(1, CONTEXT)
    pinned = ropewalk.pinned(model, TARGET) if hasattr(model.generate, "factors") else nullcontext()
    with pinned:
        cache = model(input_ids=ids, logits_to_keep=1).past_key_values
        started = time.process_time()
        for _ in range(STEPS):
            model(input_ids=ids[:, :1], past_key_values=cache)
        return time.process_time() - started


def generation(rows: int, **policy: str) -> Callable[[Any], float]:
    """`generate`, of rows of different lengths if there are several; none crosses its entry's end."""

    def run(model: Any) -> float:
        lengths = [128 + 512 * row for row in range(rows)]
        ids, mask = tokens(rows, max(lengths)), torch.zeros(rows, max(lengths), dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, -length:] = 1
        chosen = policy if hasattr(model.generate, "factors") else {}
        how = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0}
        started = time.process_time()
        model.generate(input_ids=ids, attention_mask=mask, **how, **chosen)
        return time.process_time() - started

    return run


CASES: dict[str, Callable[[Any], float]] = {
    f"prefill of {PREFILL} tokens": prefill,
    f"{STEPS} tokens, one at a time, after {CONTEXT}": decode,
    f"generate, a row of 128, {STEPS} new, pin": generation(1),
    f"generate, a row of 128, {STEPS} new, recompute": generation(1, rope_policy="recompute"),
    f"generate, 4 rows of 128 to 1664, {STEPS} new, pin": generation(4),
}


@torch.no_grad()
def measure(rounds: int) -> dict[str, Any]:
    sides = models()
    seconds: dict[str, dict[str, list[float]]] = {}
    for label, run in CASES.items():
        seconds[label] = {side: [] for side in SIDES}
        for turn in range(rounds + 1):  # the first warms up
            for side in SIDES if turn % 2 else reversed(SIDES):
                seconds[label][side].append(run(sides[side]))
        for side in SIDES:
            del seconds[label][side][0]
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("ropewalk", "torch", "transformers")},
        "rounds": rounds,
        "processor_seconds": seconds,
        "ratios": {
            label: {side: ratio(times[side], times["plain"]) for side in SIDES[1:]}
            for label, times in seconds.items()
        },
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def table(result: dict[str, Any]) -> str:
    lines = ["| case | plain, ms | longrope / plain | runtime / plain |", "| --- | ---: | ---: | ---: |"]
    for label, times in result["processor_seconds"].items():
        ratios = result["ratios"][label]
        middle = 1000 * statistics.median(times["plain"])
        lines.append(f"| {label} | {middle:.1f} | {ratios['longrope']:.3f} | {ratios['runtime']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="runtime", help="of the result files")
    args = parser.parse_args()
    result = measure(args.rounds)
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    about = (
        f"`python benchmarks/runtime.py --rounds {args.rounds}` on {result['processor']}, "
        f"{result['threads']} thread(s); {versions}. Processor milliseconds; medians over the rounds."
    )
    publish(
        args.name, result, f"# The runtime, {result['date']}\n\n{about}\n\n{table(result)}\n", table(result)
    )


if __name__ == "__main__":
    main()
