"""At the crossing from short to long factors: pin, recompute, or turn the cached keys? In NLL and in time.

    OMP_NUM_THREADS=1 python benchmarks/switching.py

Held-out documents are read by the bundled model with a cache, in pieces; up to 256 tokens under short factors
(none), beyond under the long ones (searched, 2048 tokens). What happens to the cache at the crossing differs:

    pin           it was filled under the long factors from the first token on
    recompute     it is filled anew under the long factors
    turned keys   each cached key is turned by the difference of the two angles, and scaled by the quotient of
                  the attention factors: exact for the first layer, whose input knows no positions; an
                  approximation above, whose inputs were computed under the short factors
    mixed         it stays as it is, as in transformers

NLL is token-weighted, in nats a token, over parts of the documents; the cost of a switch is in processor
seconds, beside one decoding step at that length.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

import ropewalk
from evaluator import processor, publish
from ropewalk.factors.rescale_factors import RescaleFactors, load_factors
from ropewalk.models.model import Model, load_model
from ropewalk.rope.frequencies import angles
from ropewalk.text.tokens import token_documents

WINDOW, LENGTH, BEGIN, PIECE = 256, 1024, 192, 32
PARTS = {"193-256": (192, 256), "257-320": (256, 320), "321-512": (320, 512), "513-1024": (512, 1024)}
WAYS = ("pin", "recompute", "turned keys", "mixed")
LONG = Path(__file__).parent / "results" / "2026-11-25-demo.factors.json"


def turn_keys(cache: Any, short: RescaleFactors, long: RescaleFactors) -> None:
    """From short to long factors, for a layout of halves."""
    positions = torch.arange(cache.get_seq_length())
    turn = angles(long, positions) - angles(short, positions)
    scale = long.attention_factor / short.attention_factor
    cos, sin = (turn.cos() * scale).float(), (turn.sin() * scale).float()
    for layer in cache.layers:
        first, second = layer.keys.chunk(2, dim=-1)
        layer.keys = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def read(loaded: Model, ids: Tensor, cache: Any, factors: RescaleFactors) -> Tensor:
    with loaded.using(factors):
        logits: Tensor = loaded.model(input_ids=ids, past_key_values=cache).logits
    return logits[0]


def logits_of(loaded: Model, ids: Tensor, way: str, short: RescaleFactors, long: RescaleFactors) -> Tensor:
    """Of every token of one document (1, tokens), as a generation in that way would have had them."""
    cache = DynamicCache(config=loaded.model.config)
    begin = long if way == "pin" else short
    logits = [read(loaded, ids[:, :BEGIN], cache, begin)]
    for piece in torch.split(ids[:, BEGIN:WINDOW], PIECE, dim=1):
        logits.append(read(loaded, piece, cache, begin))
    if way == "recompute":
        cache = DynamicCache(config=loaded.model.config)
        read(loaded, ids[:, :WINDOW], cache, long)
    elif way == "turned keys":
        turn_keys(cache, short, long)
    for piece in torch.split(ids[:, WINDOW:], PIECE, dim=1):
        logits.append(read(loaded, piece, cache, long))
    return torch.cat(logits)


def nats(logits: Tensor, ids: Tensor) -> dict[str, float]:
    """Sums over the parts; a token is scored by the logits before it."""
    each = torch.nn.functional.cross_entropy(logits[:-1].double(), ids[0, 1:], reduction="none")
    return {name: float(each[begin - 1 : end - 1].sum()) for name, (begin, end) in PARTS.items()}


def key_errors(loaded: Model, ids: Tensor, short: RescaleFactors, long: RescaleFactors) -> list[float]:
    """By layer: how far turned keys are from those of a fresh reading, of the largest."""
    turned, fresh = (DynamicCache(config=loaded.model.config) for _ in range(2))
    read(loaded, ids[:, :WINDOW], turned, short)
    read(loaded, ids[:, :WINDOW], fresh, long)
    turn_keys(turned, short, long)
    layers = zip(turned.layers, fresh.layers, strict=True)
    return [float((a.keys - b.keys).abs().max() / b.keys.abs().max()) for a, b in layers]


def seconds_of(run: Callable[[], Any], rounds: int) -> float:
    def each() -> Iterator[float]:
        for _ in range(rounds):
            started = time.process_time()
            run()
            yield time.process_time() - started

    return statistics.median(each())


def costs(
    loaded: Model, short: RescaleFactors, long: RescaleFactors, rounds: int
) -> dict[str, dict[str, float]]:
    """Processor seconds of one switch and of one decoding step, by the length at the crossing."""
    found = {}
    for length in (256, 1024, 4096):
        ids = torch.randint(5, 2000, (1, length), generator=torch.Generator().manual_seed(0))
        with loaded.using(long):
            cache = loaded.model(input_ids=ids, logits_to_keep=1).past_key_values

            def again(ids: Tensor = ids) -> None:
                loaded.model(input_ids=ids, logits_to_keep=1)

            def step(ids: Tensor = ids, cache: Any = cache) -> None:
                loaded.model(input_ids=ids[:, :1], past_key_values=cache)
                cache.crop(-1)

            def turn(cache: Any = cache) -> None:
                turn_keys(cache, short, long)

            runs = {"recompute": again, "turned keys": turn, "one step": step}
            found[str(length)] = {name: seconds_of(run, rounds) for name, run in runs.items()}
    return found


@torch.no_grad()
def measure(num_documents: int, rounds: int) -> dict[str, Any]:
    loaded = load_model("scale-model")
    short = ropewalk.scheme_factors("none", loaded.geometry, WINDOW)
    long = load_factors(LONG)
    documents = token_documents("stdlib", loaded.tokenizer, length=LENGTH, num_documents=num_documents)
    sums: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for document in documents.documents:
        ids = document.ids.unsqueeze(0)
        for way in WAYS:
            sums[way].append(nats(logits_of(loaded, ids, way, short, long), ids))
    first = documents.documents[0].ids.unsqueeze(0)
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "num_documents": num_documents,
        "nll_sums_nats": sums,
        "nll": {
            way: {
                name: sum(each[name] for each in sums[way]) / num_documents / (end - begin)
                for name, (begin, end) in PARTS.items()
            }
            for way in WAYS
        },
        "key_errors_by_layer": key_errors(loaded, first, short, long),
        "processor_seconds": costs(loaded, short, long, rounds),
    }


def table(result: dict[str, Any]) -> str:
    parts = list(PARTS)
    lines = [f"| nats a token | {' | '.join(parts)} |", "| --- |" + " ---: |" * len(parts)]
    for way, nll in result["nll"].items():
        lines.append(f"| {way} | {' | '.join(f'{nll[part]:.3f}' for part in parts)} |")
    lines += [
        "",
        "| a switch at, tokens | recompute, ms | turned keys, ms | one step, ms | recompute, steps |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for length, seconds in result["processor_seconds"].items():
        again, turned, step = (1000 * seconds[name] for name in ("recompute", "turned keys", "one step"))
        lines.append(f"| {length} | {again:.0f} | {turned:.1f} | {step:.1f} | {again / step:.0f} |")
    errors = ", ".join(f"{error:.1e}" for error in result["key_errors_by_layer"])
    return "\n".join([*lines, "", f"Turned keys are off, of the largest key, by layer: {errors}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-documents", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="switching", help="of the result files")
    args = parser.parse_args()
    result = measure(args.num_documents, args.rounds)
    about = (
        f"`python benchmarks/switching.py` on {result['processor']}, {result['threads']} thread(s), "
        f"{result['num_documents']} held-out documents of the standard library; processor time."
    )
    publish(
        args.name, result, f"# Switching, {result['date']}\n\n{about}\n\n{table(result)}\n", table(result)
    )


if __name__ == "__main__":
    main()
