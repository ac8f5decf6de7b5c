"""The evaluator against plain transformers: time, peak memory, share of the machine's matrix products.

    python benchmarks/evaluator.py                        # the bundled model, and a random one of 50k words
    python benchmarks/evaluator.py --model FOLDER --lengths 2048,8192,32768

A case is one side (ours, or `model(input_ids, labels=...)`) on one model at one length, in a process of its
own for its memory; for time the sides take turns in one process. An operation count divided by time, over
the rate of a float32 product of 2048 x 2048 measured in the same process, is the share:

    2 x matrix weights x tokens  +  2 x length^2 x (query heads x head_dim) a layer   (the causal half)
"""

import argparse
import contextlib
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ropewalk.evaluate.nll import score_windows
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.text.windows import TokenWindow

RESULTS = Path(__file__).parent / "results"
RANDOM_MODEL = "random-50k"
PACKAGES = ("ropewalk", "torch", "transformers", "numpy")
SIDES = ("ours", "transformers")
MATRIX = 2048


# ---------------------------------------------------------------- models and sides


def load(name: str) -> Any:
    """A local folder, the bundled model, or a random Llama whose logits dominate: 50k words, 256 wide."""
    if name != RANDOM_MODEL:
        path = scale_model_path() if name == SCALE_MODEL else name
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50_000,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).eval()


def tokens(model: Any, length: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (length,), generator=torch.Generator().manual_seed(length))


def side(name: str, model: Any, ids: Tensor) -> Callable[[], float]:
    """Mean nats of all tokens but the first, in one of the two ways."""
    if name == "ours":
        window = TokenWindow(ids=ids, num_scored=len(ids) - 1)
        return lambda: score_windows(model, [window]).mean_nats

    def plain() -> float:
        with torch.no_grad():
            return float(model(ids.unsqueeze(0), labels=ids.unsqueeze(0), use_cache=False).loss)

    return plain


def num_operations(model: Any, length: int) -> int:
    """Multiplications and additions of one reading, as the docstring above counts them."""
    config = model.config
    embeddings = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embeddings and p is not head]
    num_weights = sum(p.numel() for p in [*matrices, head])
    heads = config.num_attention_heads * config.head_dim
    return int(2 * num_weights * length + config.num_hidden_layers * 2 * length**2 * heads)


# ---------------------------------------------------------------- measurements, each in its own process


def best_seconds(run: Callable[[], Any], rounds: int) -> float:
    return min(timed(run) for _ in range(rounds))


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def matrix_rate(rounds: int = 15) -> float:
    """Operations a second of the best float32 product."""
    a, b = torch.randn(MATRIX, MATRIX), torch.randn(MATRIX, MATRIX)
    out = torch.empty(MATRIX, MATRIX)
    return 2 * MATRIX**3 / best_seconds(lambda: torch.mm(a, b, out=out), rounds)


def measure_time(name: str, length: int, rounds: int) -> dict[str, Any]:
    """Both sides in turn, with the matrix rate before and after."""
    model = load(name)
    ids = tokens(model, length)
    sides = {label: side(label, model, ids) for label in SIDES}
    values = {label: run() for label, run in sides.items()}  # and warm up
    rates = [matrix_rate()]
    seconds: dict[str, list[float]] = {label: [] for label in SIDES}
    for _ in range(rounds):
        for label, run in sides.items():
            seconds[label].append(timed(run))
    rates.append(matrix_rate())
    return {
        "mean_nats": values,
        "seconds": seconds,
        "matrix_rate": max(rates),
        "operations": num_operations(model, length),
    }


def measure_memory(name: str, length: int, label: str) -> dict[str, Any]:
    """MiB that one reading adds to the peak of a process that has loaded the model and read a few tokens."""
    model = load(name)
    side(label, model, tokens(model, 16))()
    gc.collect()
    ids = tokens(model, length)
    forget_peak()
    before = peak_mib()
    side(label, model, ids)()
    return {"peak_mib": peak_mib() - before, "loaded_mib": before}


def forget_peak() -> None:
    """Loading a model peaks above what it holds afterwards; Linux can start the peak anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The peak of this process so far; `/proc` where there is one, since rusage passes on a parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure_startup(rounds: int) -> dict[str, list[float]]:
    """Seconds of whole processes, an empty interpreter among them."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import ropewalk": [sys.executable, "-c", "import ropewalk"],
        "ropewalk --help": [sys.executable, "-m", "ropewalk", "--help"],
    }
    seconds: dict[str, list[float]] = {label: [] for label in commands}
    for _ in range(rounds):
        for label, command in commands.items():
            seconds[label].append(timed(lambda c=command: subprocess.run(c, check=True, capture_output=True)))  # type: ignore[misc]
    return seconds


# ---------------------------------------------------------------- the run


def in_process(case: str, *values: object) -> dict[str, Any]:
    """One measurement in a fresh interpreter."""
    command = [sys.executable, __file__, "--case", case, *map(str, values)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def run_case(case: str, name: str, length: str, last: str) -> dict[str, Any]:
    if case == "time":
        return measure_time(name, int(length), int(last))
    return measure_memory(name, int(length), last)


def measure(models: list[str], lengths: list[int], rounds: int) -> dict[str, Any]:
    cases = []
    for name in models:
        for length in lengths:
            print(f"{name} at {length} tokens", file=sys.stderr)
            case = {"model": Path(name).name, "length": length, **in_process("time", name, length, rounds)}
            case["memory"] = {label: in_process("memory", name, length, label) for label in SIDES}
            cases.append(case)
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "processor": processor(),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "preloaded": Path(os.environ.get("LD_PRELOAD", "")).name,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "cases": cases,
        "startup": measure_startup(rounds=7),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def table(result: dict[str, Any]) -> str:
    """The markdown of a result; ratios are ours over theirs, so below 1 is better."""
    rows = [
        "| model | tokens | time, ours / transformers | peak memory, ours / transformers | share |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in result["cases"]:
        ours, theirs = (min(case["seconds"][label]) for label in SIDES)
        memory = [case["memory"][label]["peak_mib"] for label in SIDES]
        share = case["operations"] / ours / case["matrix_rate"]
        rows.append(
            f"| {case['model']} | {case['length']} | {ours / theirs:.2f} ({ours:.3f} s / {theirs:.3f} s) "
            f"| {memory[0] / memory[1]:.2f} ({memory[0]:.0f} MiB / {memory[1]:.0f} MiB) | {share:.2f} |"
        )
    empty = min(result["startup"]["python -c pass"])
    rows += ["", "| start-up | best seconds | above an empty interpreter |", "| --- | --- | --- |"]
    for label, seconds in result["startup"].items():
        rows.append(f"| `{label}` | {min(seconds):.3f} | {min(seconds) - empty:.3f} |")
    return "\n".join(rows)


def page(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    rate = max(case["matrix_rate"] for case in result["cases"]) / 1e9
    preloaded = f", {result['preloaded']} preloaded" if result["preloaded"] else ""
    return f"""# Evaluator, {result["date"]}

`{result["command"]}` on {result["processor"]}, {result["threads"]} threads,
Python {result["python"]}, {versions}{preloaded}.

Share: of the best float32 product of {MATRIX} x {MATRIX} in the run, {rate:.0f} Gflop/s. Peak memory: what
a reading adds to a process that holds the model.

{table(result)}
"""


def publish(name: str, result: dict[str, Any], page: str, table: str) -> None:
    """Raw numbers and page into dated files, and the table to stdout."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{result['date']}-{name}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(page)
    print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="scale-model", help="a local folder, or scale-model")
    parser.add_argument("--lengths", default="2048,8192", help="tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--name", default="evaluator", help="of the result files")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run_case(*args.case)))
        return
    lengths = [int(length) for length in args.lengths.split(",")]
    result = measure([args.model, RANDOM_MODEL], lengths, args.rounds)
    publish(args.name, result, page(result), table(result))


if __name__ == "__main__":
    main()
