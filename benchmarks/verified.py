"""What `ropewalk export` writes, through `ropewalk verify` with each real engine: three models.

    python benchmarks/verified.py --transformers4 PYTHON --llama-cpp PYTHON [--smollm2 GGUF --factors FILE]

The bundled model with searched factors (pinned) and with two sets (switching), the same model tuned for 512x
with its set for 131072 tokens, and SmolLM2-135M-Instruct with the factors of `smollm2.py`: for transformers
its GGUF file is dequantised into a checkpoint. Both commands run as a user runs them, each in a process of
its own. SmolLM2 takes a quarter of an hour an engine; what is done is kept, and a killed script goes on.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from evaluator import RESULTS, publish
from exports import SEARCHED, largest, ropewalk, verified, write_two_sets
from measurements import Measurements, default_folder, surroundings
from ropewalk.models.model import load_model

PACKAGES = ("ropewalk", "torch", "transformers", "gguf")
TUNED = RESULTS / "scale-model-512x"
TUNED_MODEL = TUNED / "stages" / "05-tune-64x" / "training" / "model"
SHORT_LENGTHS, LONG_LENGTHS, SMOLLM2_LENGTHS = "64,256,257,2048", "64,256,257,4096", "256,8192,8193,10240"
TRANSFORMERS, TRANSFORMERS_4, LLAMA_CPP = "transformers", "transformers4", "llama.cpp"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One export, and who reads it.

    Attributes:
        label: the model and its factors.
        source: what is exported, as both commands take it.
        lengths: of the texts that are compared, as `verify` takes them.
    """

    label: str
    source: str
    factors: Path
    lengths: str
    engine: str
    mode: str = "pinned"

    @property
    def name(self) -> str:
        return f"{self.label}, {self.mode}, {self.engine}"


def cases(folder: Path, smollm2: Path | None, smollm2_factors: Path | None) -> Iterator[Case]:
    """The quick ones first."""
    two_sets = write_two_sets(folder / "two-sets.json")
    for engine in (TRANSFORMERS, TRANSFORMERS_4, LLAMA_CPP):
        yield Case(
            label="scale-model, searched at 8x", source="scale-model", factors=SEARCHED,
            lengths=SHORT_LENGTHS, engine=engine,
        )  # fmt: skip
        yield Case(
            label="scale-model, NTK and YaRN", source="scale-model", factors=two_sets, lengths=SHORT_LENGTHS,
            engine=engine, mode="switching",
        )  # fmt: skip
        yield Case(
            label="tuned for 512x", source=str(TUNED_MODEL), factors=TUNED / "factors.json",
            lengths=LONG_LENGTHS, engine=engine,
        )  # fmt: skip
    if smollm2 is None or smollm2_factors is None:
        return
    for engine in (LLAMA_CPP, TRANSFORMERS, TRANSFORMERS_4):
        source = smollm2 if engine == LLAMA_CPP else dequantised(smollm2, folder / "smollm2")
        yield Case(
            label="SmolLM2-135M-Instruct, searched at 2x", source=str(source), factors=smollm2_factors,
            lengths=SMOLLM2_LENGTHS, engine=engine,
        )  # fmt: skip


def dequantised(gguf: Path, folder: Path) -> Path:
    """The GGUF file's model as a checkpoint in float32."""
    if not (folder / "config.json").exists():
        loaded = load_model(gguf)
        loaded.model.hf_quantizer = None  # its weights are float32 by now
        del loaded.model.config.quantization_config
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return folder


# ---------------------------------------------------------------- measuring


def outcome(case: Case, pythons: dict[str, str]) -> dict[str, Any]:
    """Of the two commands."""
    about = [case.source, "--factors", str(case.factors)]
    kind, name = ("gguf", "export.gguf") if case.engine == LLAMA_CPP else ("hf", "export")
    python = ["--python", pythons[case.engine]] if case.engine in pythons else []
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / name)
        ropewalk("export", kind, *about, "--out", out, "--mode", case.mode)
        return verified(out, "--model", *about, "--engine", case.engine, *python, "--lengths", case.lengths)


# ---------------------------------------------------------------- the page


def row(case: Case, measured: dict[str, Any]) -> str:
    found = measured["found"]
    right = sum(check["is_right"] for check in found["checks"])
    cells = [
        case.label, case.mode, f"{found['engine']} {found['version']}", case.lengths.replace(",", ", "),
        largest(found, "frequencies"), largest(found, "attention factor"), largest(found, "logits"),
        largest(found, "nats per token"), f"{right} of {len(found['checks'])}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transformers4", required=True, help="a Python that has transformers 4")
    parser.add_argument("--llama-cpp", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--smollm2", type=Path, metavar="GGUF", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--factors", type=Path, help="what smollm2.py found for it")
    parser.add_argument("--out", type=Path, default=default_folder("verified"))
    parser.add_argument("--name", default="verified", help="of the result files")
    args = parser.parse_args()
    about = surroundings(PACKAGES, __file__)
    kept = Measurements(args.out, about)
    pythons = {TRANSFORMERS_4: args.transformers4, LLAMA_CPP: args.llama_cpp}
    rows, results = [], {}
    for case in cases(args.out, args.smollm2, args.factors):
        measured = kept.measure(case.name, partial(outcome, case, pythons))
        results[case.name] = measured
        rows.append(row(case, measured))
        print(rows[-1], file=sys.stderr, flush=True)
    wrong = [name for name, one in results.items() if not one["found"]["is_right"]]
    verdict = f"Wrong: {'; '.join(wrong)}." if wrong else f"All {len(rows)} exports are right."
    head = (
        "| model and factors | mode | engine | tokens | frequencies | attention factor | logits | nats a "
        "token | comparisons right |\n| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
    )
    table = "\n".join([head, *rows])
    result = {"date": date.today().isoformat(), **about, "measured": results}
    page = (
        f"# Exports verified by real engines, {result['date']}\n\n`python benchmarks/verified.py` on "
        f"{about['processor']}: the largest differences beyond those of the untouched model in the same "
        f"engine; frequencies and attention factor relative to Ropewalk's, logits as a share of the largest. "
        f"Limits: 1e-5, 1e-6, 0.001 (up to 4096 tokens), and 0.002 nats, of quantised files 0.02 nats alone. "
        f"That wrong factors would be noticed counts among the comparisons.\n\n{verdict}\n\n{table}\n"
    )
    publish(args.name, result, page, table)
    kept.forget()


if __name__ == "__main__":
    main()
