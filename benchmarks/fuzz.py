"""Does anything that a user may bring end in a traceback, a hang, or a file where none belongs?

    python benchmarks/fuzz.py                               20,000 mutated inputs of seven kinds
    python benchmarks/fuzz.py --kinds journals --case 17    one of them again, with its traceback

Each case is one mutated input, read by the command line or by the function that reads it, in one process a
kind. It passes if it ends in a value, or is refused by a `RopewalkError` of one line (exit code 2). It fails
by any other exception, by taking more than `--seconds`, and by writing outside of its folder, starting a
program or looking up another machine. The seed, the kind and the number of a case decide its input.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from evaluator import processor, publish
from fuzzing.kinds import KINDS
from fuzzing.watching import try_case

SECONDS = 8.0
MEMORY_BYTES = 24 * 2**30  # of addresses; what asks for more is a crash
PASSED = ("value", "refused")
ENDINGS = (*PASSED, "crash", "hang", "outside")

Outcome = dict[str, Any]


def try_cases(kind: str, cases: range, seed: int, seconds: float, folder: Path) -> Iterator[Outcome]:
    """Cases of one kind, tried in this process, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    attempt = KINDS[kind][0](folder)
    for case in cases:
        ending = try_case(partial(attempt, Random(f"{seed}-{kind}-{case}")), folder, seconds)
        yield {"case": case, "ending": ending.kind, "said": ending.said}


def work(kind: str, cases: range, args: argparse.Namespace) -> None:
    """What a process of its own does: a line on stdout for each case as it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory(prefix="ropewalk-fuzz-") as name:
        for variable in ("HOME", "TMPDIR", "ROPEWALK_CACHE", "HF_HOME"):
            os.environ[variable] = name
        tempfile.tempdir = name
        os.chdir(name)
        results = sys.stdout
        for outcome in try_cases(kind, cases, args.seed, args.seconds, Path(name)):
            print(json.dumps(outcome), file=results, flush=True)


def follow(kind: str, num_cases: int, args: argparse.Namespace) -> list[Outcome]:
    """All cases of a kind; a process that dies of one is followed by another, from the next case on."""
    outcomes: list[Outcome] = []
    while len(outcomes) < num_cases:
        command = [sys.executable, __file__, "--worker", kind, str(len(outcomes)), str(num_cases)]
        options = ["--seed", str(args.seed), "--seconds", str(args.seconds)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
        outcomes += [json.loads(line) for line in done.stdout.splitlines()]
        if len(outcomes) < num_cases:
            _, timeout, frames = done.stderr.rpartition("Timeout (")  # as faulthandler says it
            ending, end = ("hang", frames[:600]) if timeout else ("crash", done.stderr[-300:])
            said = f"the process ended with {done.returncode}: {' '.join(end.split())}"
            outcomes.append({"case": len(outcomes), "ending": ending, "said": said})
            print(f"{kind}, case {outcomes[-1]['case']}: {said}", file=sys.stderr)
    return outcomes


def measure(args: argparse.Namespace, kinds: Sequence[str]) -> dict[str, Any]:
    """Every kind, two at a time."""
    total = sum(KINDS[kind][1] for kind in kinds)
    shares = {kind: max(1, round(args.cases * KINDS[kind][1] / total)) for kind in kinds}
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(lambda kind: follow(kind, shares[kind], args), kinds))
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("ropewalk", "torch", "transformers", "pydantic", "gguf")
        },
        "seed": args.seed,
        "seconds": args.seconds,
        "counts": {
            kind: {ending: sum(one["ending"] == ending for one in outcomes) for ending in ENDINGS}
            for kind, outcomes in zip(kinds, found, strict=True)
        },
        "failures": {
            kind: [one for one in outcomes if one["ending"] not in PASSED]
            for kind, outcomes in zip(kinds, found, strict=True)
        },
    }


def table(result: dict[str, Any]) -> str:
    """The markdown of a result."""
    heads = ["input", "cases", *ENDINGS]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    counts = result["counts"]
    total = {ending: sum(row[ending] for row in counts.values()) for ending in ENDINGS}
    for name, row in [*counts.items(), ("all", total)]:
        cells = [name, sum(row.values()), *(row[ending] for ending in ENDINGS)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def places(result: dict[str, Any]) -> str:
    """Failures by what they say, each with how often and one case."""
    lines = []
    for kind, failures in result["failures"].items():
        often = Counter((one["ending"], _place(one["said"])) for one in failures)
        for (ending, place), count in often.most_common():
            first = next(one for one in failures if (one["ending"], _place(one["said"])) == (ending, place))
            lines.append(f"{kind:<9} {count:>5}  {ending:<8} case {first['case']:<6} {first['said'][:220]}")
    return "\n".join(lines)


def _place(said: str) -> str:
    """An error's class and where it was raised, without what it says."""
    return f"{said.partition(':')[0]} {said.rpartition(' in ')[2]}"


def show(kind: str, case: int, args: argparse.Namespace) -> None:
    """One case again, without a watch: its traceback if it fails, its files in any case."""
    folder = Path(tempfile.mkdtemp(prefix="ropewalk-fuzz-"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    attempt = KINDS[kind][0](folder)
    print(f"{kind}, case {case}, in {folder}", flush=True)
    print(attempt(Random(f"{args.seed}-{kind}-{case}")))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of them, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a case may take")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at a time")
    parser.add_argument("--case", type=int, help="this case alone, of the kind that --kinds names")
    parser.add_argument("--dry", action="store_true", help="write no result files")
    parser.add_argument("--name", default="fuzz", help="of the result files")
    parser.add_argument("--worker", nargs=3, metavar=("KIND", "FIRST", "STOP"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    kinds = args.kinds.split(",")
    if args.worker:
        work(args.worker[0], range(int(args.worker[1]), int(args.worker[2])), args)
        return 0
    if args.case is not None:
        show(kinds[0], args.case, args)
        return 0
    result = measure(args, kinds)
    num_failures = sum(map(len, result["failures"].values()))
    if num_failures:
        print(places(result), file=sys.stderr)
    page = (
        f"# Mutated inputs, {result['date']}\n\n`python benchmarks/fuzz.py --cases {args.cases} --seed "
        f"{args.seed}` on {result['processor']}. A case ends in a value, is refused in one line, or "
        f"fails: by another exception (crash), by more than {args.seconds:g} s (hang), or by what it does "
        f"outside of its folder.\n\n{table(result)}\n"
    )
    if args.dry:
        print(table(result))
    else:
        publish(args.name, result, page, page)
    return 1 if num_failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
