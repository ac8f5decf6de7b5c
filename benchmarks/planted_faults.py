"""Does `ropewalk verify` catch what conversions get wrong? Seventeen faults, planted one by one.

    python benchmarks/planted_faults.py --transformers4 PYTHON

The bundled model is exported as each fault needs it, with an attention factor (1.1) that no engine computes;
what turns only a part of each head is a small random StableLM. Each engine runs in a process of its own. The
table says which comparisons failed; a row without a fault comes first, and must be right.
"""

import argparse
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, StableLmConfig, StableLmForCausalLM

from evaluator import processor, publish
from ropewalk.export import ExportMode
from ropewalk.export.hf import export_hf
from ropewalk.export.manifest import read_folded, read_folder_mode
from ropewalk.export.settings import ExportSettings
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import Model, load_model
from ropewalk.models.scale_model import scale_model_path
from ropewalk.rope.schemes import scheme_factors
from ropewalk.testing.planted_faults import Fault, faults
from ropewalk.verify.base_model import base_folder
from ropewalk.verify.compare import ExportUnderTest, verify
from ropewalk.verify.engines import Engine, EngineOutput, EngineRequest
from ropewalk.verify.engines.transformers import transformers_4_engine, transformers_engine
from ropewalk.verify.result import VerificationResult

ATTENTION_FACTOR = 1.1
LENGTHS = (64, 256, 257, 1024)
RIGHT = Fault(name="none", plant=lambda _folder: None)


class Remembering:
    """An engine that reads the same untouched model once."""

    def __init__(self, engine: Engine, base: str) -> None:
        self.engine, self.base = engine, base
        self.name, self.install_hint = engine.name, engine.install_hint
        self.chooses_by_context, self.context_step = engine.chooses_by_context, engine.context_step
        self._answer: EngineOutput | None = None

    def version(self) -> str:
        return self.engine.version()

    def run(self, request: EngineRequest) -> EngineOutput:
        if request.path != self.base:
            return self.engine.run(request)
        self._answer = self._answer or self.engine.run(request)
        return self._answer


def write_partial_model(folder: Path) -> None:
    """A random model that turns half of each head, with the bundled model's tokenizer and window."""
    config = StableLmConfig(
        vocab_size=2048, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 625.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    torch.manual_seed(0)
    StableLmForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(scale_model_path()).save_pretrained(folder)


def factor_set(loaded: Model, mode: str) -> FactorSet:
    window = loaded.geometry.original_length
    long = scheme_factors("yarn", loaded.geometry, 8 * window).replace(attention_factor=ATTENTION_FACTOR)
    short = scheme_factors("ntk:factor=1.5", loaded.geometry, window).replace(
        attention_factor=ATTENTION_FACTOR
    )
    return FactorSet.of([long] if mode == "pinned" else [short, long])


def plan() -> Iterator[tuple[str, Fault]]:
    """What is exported, and what is then done to it."""
    for needs in ("", "switching", "folded", "partial"):
        yield needs, RIGHT
    for fault in faults():
        yield fault.needs, fault


def verified(
    source: str, needs: str, fault: Fault, engine: Engine, base: str, folder: Path
) -> VerificationResult:
    loaded = load_model(source)
    mode: ExportMode = "switching" if needs == "switching" else "pinned"
    chosen = factor_set(loaded, mode)
    out = folder / "out"
    settings = ExportSettings(mode=mode, fold_attention_factor=needs == "folded")
    export_hf(source, chosen, out, settings=settings)
    fault.plant(out)
    folded = read_folded(out)
    question = ExportUnderTest.of(
        out, base, chosen, mode=read_folder_mode(out) or "pinned", folded_for=folded and folded[1]
    )
    ids = torch.randint(2048, (max(LENGTHS),), generator=torch.Generator().manual_seed(0)).tolist()
    return verify(question, loaded, engine, ids, LENGTHS)


def measure(engines: list[Engine]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_partial_model(root / "partial")
        sources = {"partial": str(root / "partial")}
        remembering: dict[tuple[str, str], Remembering] = {}
        for needs, fault in plan():
            source = sources.get(needs, "scale-model")
            row: dict[str, Any] = {"fault": fault.name, "export": needs or "pinned", "found": {}}
            for engine in engines:
                key = (source, engine.name)
                if key not in remembering:
                    base = Path(tempfile.mkdtemp(dir=root))
                    remembering[key] = Remembering(engine, str(base_folder(source, base)))
                with tempfile.TemporaryDirectory() as folder:
                    asked = remembering[key]
                    found = verified(source, needs, fault, asked, asked.base, Path(folder))
                told = found.as_json()
                del told["path"]  # a temporary one
                row["found"][f"{engine.name} {found.version}"] = told
                print(fault.name, "|", engine.name, "|", wrong_checks(told), flush=True)
            rows.append(row)
    return {"date": date.today().isoformat(), "processor": processor(), "lengths": LENGTHS, "rows": rows}


def wrong_checks(found: dict[str, Any]) -> str:
    """The comparisons that failed, by name."""
    names = [
        check["what"].replace(" would be noticed", "") for check in found["checks"] if not check["is_right"]
    ]
    return ", ".join(dict.fromkeys(names)) or "right"


def table(result: dict[str, Any]) -> str:
    engines = list(result["rows"][0]["found"])
    lines = [
        f"| fault | in an export | {' | '.join(engines)} |",
        f"| --- | --- | {' | '.join('---' for _ in engines)} |",
    ]
    for row in result["rows"]:
        cells = " | ".join(wrong_checks(row["found"][engine]) for engine in engines)
        lines.append(f"| {row['fault']} | {row['export']} | {cells} |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    planted = [row for row in result["rows"] if row["fault"] != RIGHT.name]
    caught = [row for row in planted if not any(found["is_right"] for found in row["found"].values())]
    alone = [row for row in result["rows"] if row["fault"] == RIGHT.name]
    right = [row for row in alone if all(found["is_right"] for found in row["found"].values())]
    return (
        f"{len(caught)} of {len(planted)} faults are caught with every engine; {len(right)} of {len(alone)} "
        f"exports without a fault are right."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transformers4", metavar="PYTHON", help="of an environment with transformers 4")
    parser.add_argument("--name", default="planted-faults", help="of the result files")
    args = parser.parse_args()
    engines: list[Engine] = [transformers_engine()]
    if args.transformers4:
        engines.append(transformers_4_engine(args.transformers4))
    result = measure(engines)
    page = (
        f"# Planted faults, {result['date']}\n\n`python benchmarks/planted_faults.py --transformers4 PYTHON` "
        f"on {result['processor']}; texts of {', '.join(map(str, LENGTHS))} random tokens, attention factor "
        f"{ATTENTION_FACTOR}. Each cell names the comparisons that failed; `engine` means that the engine "
        f"refused the folder.\n\n{summary(result)}\n\n{table(result)}\n"
    )
    publish(args.name, result, page, page)


if __name__ == "__main__":
    main()
