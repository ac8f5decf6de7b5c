"""Near-far factors, untrained: perplexity and facts at 8x against closed forms, and what they cost.

    OMP_NUM_THREADS=1 python benchmarks/near_far.py --model scale-model --out FOLDER
    OMP_NUM_THREADS=1 python benchmarks/near_far.py --model benchmarks/today-model --parts quality --out OTHER

Parts:

    quality   Perplexity on unseen documents and facts found: near-far factors with the windows L/8, L/4 and
              L/2, closed forms, tuned ramps, and the searched factors of the latest page of `facts.py`. The
              base model inside its window is the reference.
    speed     A prefill, decoding and the memory of keys: near-far against plain SDPA attention, on a model
              with random weights and the sizes of SmolLM2-135M.

Attention factors and window of the near-far closed form are chosen by the objective of the default search on
`stdlib:search`, whose documents the searches read too. Everything else is measured on `stdlib:held-out`. What
`facts.py` has measured on the same documents, questions and weights is taken from its latest result.

Each measurement is saved as it ends, and the same folder is continued, by the other part too. Every run ends
with `results/DATE-near-far-NAME.md` and `.json` of all that the folder has.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import near_far_bench
from evaluator import RESULTS
from facts_measured import Measured
from measurements import Measurements, default_folder, surroundings
from near_far_bench import NearFarBench, known_measurements, searched_factors
from near_far_page import page
from near_far_speed import SIZES, SpeedBench, random_model
from ropewalk.models.model import Model, load_model

PARTS = ("quality", "speed")
SHOWN = ("seeds", "questions", "documents", "choice_documents", "target", "lengths", "size", "layers")


def quality(model: Model, kept: Measurements, args: argparse.Namespace) -> None:
    bench = NearFarBench(
        model,
        kept,
        questions=args.questions,
        documents=args.documents,
        choice_documents=args.choice_documents,
        target=args.target,
        lengths=args.lengths,
        seeds=args.seeds,
    )
    file = args.searched or max(args.results.glob(f"*-facts-{Path(args.model).name}.json"), default=None)
    if file is None:
        print("no searched factors: give a result of facts.py with --searched", file=sys.stderr)
        bench.compare({}, {})
        return
    known = known_measurements(file, args.questions, args.documents)
    bench.compare(searched_factors(file, model, args.target), known)


def speed(_: Model, kept: Measurements, args: argparse.Namespace) -> None:
    model = random_model(args.size, args.layers)
    bench = SpeedBench(model, kept, args.speed_window, max(args.speed_lengths))
    for length in args.speed_lengths:
        bench.measure(length, args.rounds)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="scale-model", help="of the part quality")
    parser.add_argument("--out", type=Path, default=default_folder("near-far"), help="one folder per model")
    parser.add_argument(
        "--parts", type=partial(str.split, sep=","), default=[*PARTS], help="of quality,speed"
    )
    parser.add_argument("--target", type=int, default=2048, help="tokens")
    parser.add_argument("--lengths", type=_numbers, default=[512, 1024, 2048], help="of texts with facts")
    parser.add_argument("--questions", type=int, default=200, help="of each kind at each length")
    parser.add_argument("--documents", type=int, default=30, help="for perplexity")
    parser.add_argument(
        "--choice-documents", type=int, default=12, help="to choose attention factors, at most 32"
    )
    parser.add_argument(
        "--searched", type=Path, help="a JSON file of facts.py; else the latest of this model"
    )
    parser.add_argument("--seeds", type=int, default=3, help="searches of near-far factors")
    parser.add_argument("--size", choices=SIZES, default="smollm2-135m", help="of the part speed")
    parser.add_argument("--layers", type=int, default=4, help="of the part speed")
    parser.add_argument("--speed-lengths", type=_numbers, default=[4096, 16384], help="tokens")
    parser.add_argument(
        "--speed-window", type=int, default=0, help="W; 0 for a quarter of the model's window"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of the part speed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    args = parser.parse_args(given)
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: use {', '.join(PARTS)}")
    return args


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    args = arguments()
    model, name = load_model(args.model), Path(args.model).name
    about = {
        **surroundings(("ropewalk", "torch", "transformers"), near_far_bench.__file__),
        "model": model.weights_sha256,
        "window": model.geometry.original_length,
        **{size: getattr(args, size) for size in SHOWN},
    }
    kept = Measurements(args.out, about)
    for part in (quality, speed):
        if part.__name__ in args.parts:
            part(model, kept, args)
    shown = name if Path(args.model).is_absolute() else args.model
    sizes = " ".join(f"--{size.replace('_', '-')} {_text(getattr(args, size))}" for size in SHOWN)
    publish(kept, args.results, name, about, f"python benchmarks/near_far.py --model {shown} {sizes}")


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def publish(kept: Measurements, folder: Path, name: str, about: dict[str, Any], command: str) -> None:
    """The page and the numbers of everything measured so far."""
    seen = Measured(kept.measured)
    stem = folder / f"{datetime.date.today()}-near-far-{name}"
    lines = page(seen, name, about, command)
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = {"about": {**about, "model_name": name}, "measured": seen.values}
    stem.with_suffix(".json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
