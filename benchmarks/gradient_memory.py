"""What a gradient of the rescale factors takes in memory and time, beside what a plain evaluation takes.

    python benchmarks/gradient_memory.py [--out FOLDER]

The bundled model at 16384 tokens: MiB that an evaluation, or a gradient, adds to the peak of a process that
holds the model, each in a process of its own; and at 2048 tokens: their times, taken in turn in one process.
Then a model of Llama 3 8B's shape at 131072 tokens, traced on fake tensors, which have shapes and no
contents: GiB of all tensors that live at once, weights included. The trace sees every tensor that torch hands
out; what a kernel takes for itself while it runs is not in it.

Each measurement is written to FOLDER as it ends; killed and started again, it goes on.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
import weakref
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from evaluator import PACKAGES, forget_peak, load, peak_mib, publish, tokens
from measurements import Measurements, default_folder, surroundings
from ropewalk.evaluate import gradient as gradient_module
from ropewalk.evaluate.gradient import gradient_tensors, nll_gradient
from ropewalk.evaluate.nll import score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models import activation_checkpointing as recompute_module
from ropewalk.models.model import Model
from ropewalk.models.rope_config import describe
from ropewalk.models.scale_model import SCALE_MODEL
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.readings import Reading
from ropewalk.text.windows import TokenWindow

NAME = "gradient-memory"
COMMAND = "python benchmarks/gradient_memory.py"
REAL_LENGTH = 16384
TRACED_LENGTH = 131072
UNTILED = 2**40
GIB = 2**30
TERM = "nll"

EVALUATION = "evaluation"
# How a gradient is taken: the arguments of `nll_gradient`, and whether work is cut into tiles.
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "gradient": ({"checkpoint": True}, True),
    "gradient, checkpointed, not tiled": ({"checkpoint": True}, False),
    "gradient, all kept, not tiled": ({"checkpoint": False}, False),
    "gradient, all kept": ({"checkpoint": False}, True),
}
TIMED_WAYS = (EVALUATION, "gradient", "gradient, all kept")
TIMED_LENGTH = 2048
PROCESSES = 5  # an allocator's heap is cut up otherwise each time
ALLOWED_RATIO, ALLOWED_GIB = 2.0, 75.0


def window_of(ids: Tensor) -> TokenWindow:
    return TokenWindow(ids=ids, num_scored=len(ids) - 1)


def factors_of(model: Any, length: int) -> RescaleFactors:
    return scheme_factors("yarn", describe(model.config).geometry, length)


def untiled() -> ExitStack:
    """Feed-forward part and loss at once, for comparison."""
    stack = ExitStack()
    stack.enter_context(patch.object(recompute_module, "MLP_TILE_TOKENS", UNTILED))
    stack.enter_context(patch.object(gradient_module, "FEWEST_ROWS", UNTILED))
    return stack


# ---------------------------------------------------------------- a real model, in a process of its own


def measure_memory(way: str, length: int) -> dict[str, float]:
    """MiB added to the peak of a process that has loaded the model and read a few tokens."""
    model = load(SCALE_MODEL)
    factors = factors_of(model, length)
    run_real(model, factors, way, 16)
    gc.collect()
    forget_peak()
    before = peak_mib()
    run_real(model, factors, way, length)
    return {"peak_mib": peak_mib() - before, "loaded_mib": before}


def measure_time(length: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of the processor, which a busy machine changes less than those of a clock."""
    model = load(SCALE_MODEL)
    factors = factors_of(model, length)
    seconds: dict[str, list[float]] = {way: [] for way in TIMED_WAYS}
    for way in TIMED_WAYS:
        run_real(model, factors, way, length)  # warm up
    for _ in range(rounds):
        for way in TIMED_WAYS:
            started = time.process_time()
            run_real(model, factors, way, length)
            seconds[way].append(time.process_time() - started)
    return seconds


def run_real(model: Any, factors: RescaleFactors, way: str, length: int) -> None:
    window = window_of(tokens(model, length))
    if way == EVALUATION:
        with Model.wrap(model).using(factors):
            score_windows(model, [window])
        return
    arguments, is_tiled = WAYS[way]
    with ExitStack() if is_tiled else untiled():
        nll_gradient(model, window, factors, **arguments)


# ---------------------------------------------------------------- memory of fake tensors


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of every storage on one device that is alive, and their peak."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != self.device.type or storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.hold(leaf)
        return result


def llama_8b(**changes: Any) -> LlamaConfig:
    shape = {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "tie_word_embeddings": False,
        "attn_implementation": "sdpa",
    }
    return LlamaConfig(**{**shape, **changes})


def trace(way: str, length: int) -> dict[str, float]:
    """GiB at the peak, and of the weights alone."""
    device = torch.device("cpu")
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    rotary = LlamaForCausalLM(
        llama_8b(num_hidden_layers=1, vocab_size=8, intermediate_size=8)
    ).model.rotary_emb
    with fake, device:
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(llama_8b()).eval()
        torch.set_default_dtype(torch.float32)
        ids = torch.zeros(length, dtype=torch.int64)
    model.model.rotary_emb = rotary  # a real one, whose layout can be learnt
    factors = factors_of(model, length)
    Model.wrap(model).install(factors)
    Model.wrap(model).share_head_of(Model.wrap(twin()))
    live = LiveBytes(device)
    for parameter in model.parameters():
        live.hold(parameter)
    weights = live.now
    window = window_of(ids)
    reading = Reading.of_window(window, TERM)  # positions with contents, which are compared
    with one_sequence(), fake, live:
        run_traced(model, window, reading, factors, way)
    return {"peak_gib": live.peak / GIB, "weights_gib": weights / GIB}


def run_traced(
    model: nn.Module, window: TokenWindow, reading: Reading, factors: RescaleFactors, way: str
) -> None:
    if way == EVALUATION:
        score_windows(model, [window])
        return
    arguments, is_tiled = WAYS[way]
    with ExitStack() if is_tiled else untiled():
        gradient_tensors(model, reading, factors, {TERM: 1.0}, **arguments)


def twin() -> LlamaForCausalLM:
    """Small and real, of the same class: its values show how logits are made."""
    small = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    return LlamaForCausalLM(
        llama_8b(**small, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    ).eval()


def one_sequence() -> ExitStack:
    """What transformers asks the values of positions and masks, answered: one sequence, no mask needed."""
    stack = ExitStack()
    masking = "transformers.masking_utils."
    stack.enter_context(patch(masking + "find_packed_sequence_indices", lambda _: None))
    stack.enter_context(patch(masking + "is_tracing", lambda _: False))
    return stack


# ---------------------------------------------------------------- the run


def run_case(case: str, way: str, length: str) -> Any:
    if case == "memory":
        return measure_memory(way, int(length))
    return measure_time(int(length), rounds=5) if case == "time" else trace(way, int(length))


def in_process(case: str, way: str, length: int) -> Any:
    """One measurement in a fresh interpreter."""
    print(f"{case}: {way} at {length} tokens", file=sys.stderr)
    command = [sys.executable, __file__, "--case", case, way, str(length)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(kept: Measurements) -> dict[str, Any]:
    def one(case: str, way: str, length: int, number: int = 1) -> Any:
        return kept.measure(
            f"{case}: {way} at {length} tokens, {number}", partial(in_process, case, way, length)
        )

    ways, numbers = [EVALUATION, *WAYS], range(1, PROCESSES + 1)
    return {
        "date": date.today().isoformat(),
        "command": COMMAND,
        **kept.about,
        "memory": {way: [one("memory", way, REAL_LENGTH, number) for number in numbers] for way in ways},
        "processor_seconds": one("time", "all", TIMED_LENGTH),
        "trace": {way: one("trace", way, TRACED_LENGTH) for way in ways},
    }


def table(result: dict[str, Any]) -> str:
    peaks = {way: sorted(found["peak_mib"] for found in cases) for way, cases in result["memory"].items()}
    usual = median(peaks[EVALUATION])
    seconds = {way: min(found) for way, found in result["processor_seconds"].items()}
    lines = [
        f"| | scale-model, {REAL_LENGTH} tokens | times an evaluation's | time at {TIMED_LENGTH} tokens, "
        f"times an evaluation's | 8B Llama, {TRACED_LENGTH} tokens (traced) |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way, found in peaks.items():
        spent = f"{seconds[way] / seconds[EVALUATION]:.2f} ({seconds[way]:.3f} s)" if way in seconds else "-"
        traced = result["trace"][way]["peak_gib"]
        lines.append(
            f"| {way} | {median(found):.0f} ({found[0]:.0f}-{found[-1]:.0f}) MiB "
            f"| {median(found) / usual:.2f} | {spent} | {traced:.1f} GiB |"
        )
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    preloaded = f", {result['preloaded']} preloaded" if result["preloaded"] else ""
    weights = result["trace"][EVALUATION]["weights_gib"]
    rounds = len(result["processor_seconds"][EVALUATION])
    return f"""# Gradient memory, {result["date"]}

`{result["command"]}` on {result["processor"]}, {result["threads"]} threads,
Python {result["python"]}, {versions}{preloaded}.

Memory of the scale model: what a run adds to the peak of a process that holds the model (float32), the median
of {PROCESSES} processes (smallest-largest). Time: of the processor, best of {rounds}. Traced: all tensors
alive at once, on fake tensors in bfloat16, {weights:.1f} GiB of frozen weights among them.
Allowed: {ALLOWED_RATIO} times an evaluation, and {ALLOWED_GIB:.0f} GiB.

{table(result)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=default_folder(NAME), help="of what is measured so far")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(*args.case)))
        return
    kept = Measurements(args.out, surroundings(PACKAGES, __file__))
    result = measure(kept)
    publish(NAME, result, page(result), table(result))
    kept.forget()


if __name__ == "__main__":
    main()
