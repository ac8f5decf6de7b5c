"""What a training step takes in memory and time, beside transformers' plain Trainer.

    OMP_NUM_THREADS=1 python benchmarks/finetune_memory.py [--out FOLDER]

The bundled model, one segment a step, float32: MiB that two steps add to the peak of a process that holds the
model, each way in a process of its own; and the seconds of the processor that the second step took. Our
side is a whole stage, its checks, checkpoints and their reading back included; Trainer's saves nothing.

Each measurement is written to FOLDER as it ends; killed and started again, it goes on.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from evaluator import PACKAGES, forget_peak, peak_mib, publish, tokens
from measurements import Measurements, default_folder, surroundings
from ropewalk.finetune import trainer as trainer_module
from ropewalk.finetune.data.documents import TrainingDocument
from ropewalk.finetune.data.training_text import DocumentList
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.train import finetune_model
from ropewalk.models.activation_checkpointing import DifferentiableAttention
from ropewalk.models.model import Model, load_model
from ropewalk.models.scale_model import scale_model_path
from ropewalk.rope.schemes import scheme_factors

NAME = "finetune-memory"
COMMAND = "python benchmarks/finetune_memory.py"
LENGTHS = (2048, 16384)
NUM_STEPS = 2
# Ours or plain, whether layers are computed twice, and for ours whether grouped heads are repeated.
WAYS = {
    "plain Trainer": ("plain", False, False),
    "plain Trainer, activation checkpointing": ("plain", True, False),
    "ours, all kept": ("ours", False, True),
    "ours": ("ours", True, True),
    "ours, all kept, grouped attention as it is": ("ours", False, False),
}


class Untouched:
    """In the place of the attention that repeats grouped heads."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


class StepSeconds(TrainerCallback):  # type: ignore[misc]
    """Seconds of the processor of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begun = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self._begun)


def train(way: str, loaded: Model, length: int, folder: Path) -> float:
    """Seconds of the last step."""
    side, checkpointing, repeated = WAYS[way]
    ids = tokens(loaded.model, length).clamp(min=2)
    clock = StepSeconds()
    if side == "plain":
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=NUM_STEPS,
            per_device_train_batch_size=1,
            activation_checkpointing=checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False},
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = [{"input_ids": ids, "labels": ids}] * NUM_STEPS
        trainer = Trainer(model=loaded.model, args=arguments, train_dataset=rows, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock.seconds[-1]
    settings = FinetuneSettings(
        length=length,
        num_steps=NUM_STEPS,
        batch_size=1,
        gradient_checkpointing=checkpointing,
    )
    make = trainer_module.make_trainer

    def make_with_clock(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        made.add_callback(clock)
        return made

    text = DocumentList([TrainingDocument(ids=ids, source="random")])
    factors = scheme_factors("yarn", loaded.geometry, length)
    attention = DifferentiableAttention if repeated else Untouched
    with (
        patch("ropewalk.finetune.train.make_trainer", make_with_clock),
        patch.object(trainer_module, "DifferentiableAttention", attention),
    ):
        finetune_model(loaded, factors, text, settings, folder)
    return clock.seconds[-1]


def measure_case(way: str, length: int) -> dict[str, float]:
    """In a process of its own."""
    loaded = load_model(scale_model_path())
    with tempfile.TemporaryDirectory() as folder:
        train(way, loaded, 64, Path(folder) / "warm-up")
        gc.collect()
        forget_peak()
        before = peak_mib()
        seconds = train(way, loaded, length, Path(folder) / "measured")
        return {"peak_mib": peak_mib() - before, "loaded_mib": before, "step_seconds": seconds}


def in_process(way: str, length: int) -> Any:
    """One measurement in a fresh interpreter."""
    print(f"{way} at {length} tokens", file=sys.stderr)
    command = [sys.executable, __file__, "--case", way, str(length)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(kept: Measurements) -> dict[str, Any]:
    cases: dict[str, dict[str, Any]] = {}
    for length in LENGTHS:
        cases[str(length)] = {
            way: kept.measure(f"{way} at {length} tokens", partial(in_process, way, length)) for way in WAYS
        }
    return {
        "date": date.today().isoformat(),
        "command": COMMAND,
        **kept.about,
        "cases": cases,
    }


def table(result: dict[str, Any]) -> str:
    columns = [f"{n} tokens: MiB | tokens a second" for n in LENGTHS]
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- | --- |" * len(LENGTHS)]
    for way in WAYS:
        cells = [way]
        for length in LENGTHS:
            found = result["cases"][str(length)][way]
            cells += [f"{found['peak_mib']:.0f}", f"{length / found['step_seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    preloaded = f", {result['preloaded']} preloaded" if result["preloaded"] else ""
    return f"""# Fine-tuning memory, {result["date"]}

`{result["command"]}` on {result["processor"]}, {result["threads"]} threads,
Python {result["python"]}, {versions}{preloaded}.

The scale model in float32, one segment a step. MiB: what two steps (ours with checks and checkpoints,
Trainer's without) add to the peak of a process that holds the model and has trained on 64 tokens. Tokens a
second: of the processor's time in the second step.

{table(result)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=default_folder(NAME), help="of what is measured so far")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure_case(args.case[0], int(args.case[1]))))
        return
    kept = Measurements(args.out, surroundings((*PACKAGES, "accelerate"), __file__))
    result = measure(kept)
    publish(NAME, result, page(result), table(result))
    kept.forget()


if __name__ == "__main__":
    main()
