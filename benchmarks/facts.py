"""Perplexity against retrieval at 8x: closed forms, tuned ramps, the default search, its rivals.

    python benchmarks/facts.py --model scale-model --out FOLDER
    python benchmarks/facts.py --model benchmarks/today-model --out FOLDER --only closed,default

Searches read documents of `stdlib:search`; everything is measured on `stdlib:held-out`, with the factors of
2048 tokens at every length. Closed forms and the default search are asked at each length; ramps, other
weights and evolutions at 2048 tokens alone, with fewer kinds of questions. Texts with one fact in an unseen
wording are the most expensive kind, and have two lengths. The closed forms of `SCREENED` first answer 50
questions at each length, and all of them where they answer as many of the 50 as the best of the others.
At 9,000 tokens per second a model takes about 45 minutes, and `exact` 27 more.

Parts, in this order: closed, default, ramps, weights, kept (the evolution from kept keys), exact (the same,
every candidate read in full). Each measurement is saved as it ends, and the same folder is continued, by
other parts too. Every run ends with `results/DATE-facts-NAME.md`, `.json` and `.png` of all that the folder
has.
"""

import argparse
import datetime
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import facts_bench
from evaluator import RESULTS
from facts_bench import Bench
from facts_measured import (
    BASE,
    CLOSED,
    DEFAULT,
    FOUR,
    LENGTHS,
    RAMPS,
    SEEN,
    TARGET,
    UNSEEN,
    WEIGHTS,
    WINDOW,
    Measured,
)
from facts_page import page, points_of
from frontier_figure import draw_frontier
from measurements import Measurements, default_folder, surroundings
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import CLOSED_FORMS
from ropewalk.search.settings import SearchSettings

TUNED_RAMPS = tuple(
    f"yarn:beta_fast={fast:g},beta_slow={slow:g}"
    for fast, slow in ((16, 0.5), (16, 1), (8, 1), (64, 1), (32, 2))
)
SCREENED = ("mrrope-uni", "pi", "ntk", "dynamic-ntk", "yarn-paper", "llama3", "yarn:attention_factor=1")
OTHER_WEIGHTS = (0.05, 0.1, 0.2, 0.4)
UNSEEN_LENGTHS = (512, 2048)  # four questions per text have unseen wordings too, at a quarter of the cost


def closed(bench: Bench, args: argparse.Namespace) -> None:
    """The base model in its window, and every closed form."""
    bench.ask(bench.add(BASE, BASE, None), None, [WINDOW])
    asked = [scheme for scheme in CLOSED_FORMS if scheme not in (*SCREENED, "none")]
    names = []
    for scheme in asked:
        name, factors = bench.closed_form(scheme, CLOSED)
        bench.perplexity(name, factors)
        ask_all(bench, name, factors, args.lengths)
        names.append(name)
    for scheme in SCREENED:
        name, factors = bench.closed_form(scheme, CLOSED)
        bench.perplexity(name, factors)
        if name in names:
            continue
        bench.screen(name, factors, args.lengths)
        for length in args.lengths:
            best = max(sum(bench.seen.screened(other, length)) for other in names)
            if sum(bench.seen.screened(name, length)) >= best:
                ask_all(bench, name, factors, [length])


def ask_all(bench: Bench, name: str, factors: RescaleFactors, lengths: Sequence[int]) -> None:
    """Every kind of questions."""
    bench.ask(name, factors, lengths, [SEEN, FOUR])
    bench.ask(name, factors, [length for length in lengths if length in UNSEEN_LENGTHS], [UNSEEN])


def default(bench: Bench, args: argparse.Namespace) -> None:
    """The default search with each seed."""
    for seed in args.seeds:
        name, factors = bench.search_once(f"default, seed {seed}", DEFAULT, seed=seed, budget=args.budget)
        bench.perplexity(name, factors)
        ask_all(bench, name, factors, args.lengths)
        bench.exact_values(name, factors)


def ramps(bench: Bench, args: argparse.Namespace) -> None:
    """YaRN with other parameters."""
    for scheme in TUNED_RAMPS:
        name, factors = bench.closed_form(scheme, RAMPS)
        bench.perplexity(name, factors)
        bench.ask(name, factors, [TARGET], [SEEN])


def weights(bench: Bench, args: argparse.Namespace) -> None:
    """The default search with other weights of answers, from none to answers alone."""
    searches: dict[str, dict[str, Any]] = {"perplexity alone": {"objective": "perplexity"}}
    for weight in args.weights:
        if weight != SearchSettings().answer_weight:
            searches[f"weight {weight:g}"] = {"answer_weight": weight}
    searches["answers alone"] = {"objective": "needle"}
    for label, settings in searches.items():
        name, factors = bench.search_once(label, WEIGHTS, budget=args.budget, **settings)
        bench.perplexity(name, factors)
        bench.ask(name, factors, [TARGET], [SEEN])


def evolution(bench: Bench, args: argparse.Namespace, *, exact: bool) -> None:
    """The evolution, its candidates read in full or judged from kept keys."""
    how = "exact" if exact else "kept keys"
    label = f"evolution, {how}, {args.candidates} candidates"
    name, factors = bench.evolve(label, args.candidates, exact=exact)
    bench.perplexity(name, factors)
    bench.ask(name, factors, [TARGET], [SEEN, FOUR])
    bench.exact_values(name, factors)


PARTS: dict[str, Callable[[Bench, argparse.Namespace], None]] = {
    "closed": closed,
    "default": default,
    "ramps": ramps,
    "weights": weights,
    "kept": partial(evolution, exact=False),
    "exact": partial(evolution, exact=True),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    numbers = partial(str.split, sep=",")
    parser.add_argument("--model", default="scale-model")
    parser.add_argument("--out", type=Path, default=default_folder("facts"), help="one folder per model")
    parser.add_argument("--only", type=numbers, default=[*PARTS], help=f"of {','.join(PARTS)}")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the default search")
    parser.add_argument("--weights", default=",".join(map(str, OTHER_WEIGHTS)))
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--questions", type=int, default=200, help="of each kind at each length")
    parser.add_argument("--documents", type=int, default=30, help="for perplexity")
    parser.add_argument("--candidates", type=int, default=1344, help="of the evolution")
    parser.add_argument("--budget", type=int, help="of the searches that descend; else the default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    args = parser.parse_args()
    args.seeds, args.lengths = ([int(n) for n in text.split(",")] for text in (args.seeds, args.lengths))
    args.weights = [float(weight) for weight in args.weights.split(",") if weight]
    if unknown := [part for part in args.only if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}: use {', '.join(PARTS)}")
    return args


def main() -> None:
    args = arguments()
    model, name = load_model(args.model), Path(args.model).name
    about = {
        **surroundings(("ropewalk", "torch", "transformers"), facts_bench.__file__),
        "model": model.weights_sha256,
        "questions": args.questions,
        "documents": args.documents,
    }
    bench = Bench(model, Measurements(args.out, about), args.questions, args.documents)
    for part, measure in PARTS.items():
        if part in args.only:
            measure(bench, args)
    weights = ",".join(f"{weight:g}" for weight in args.weights)
    sizes = (
        f"--questions {args.questions} --documents {args.documents} --weights {weights} "
        f"--candidates {args.candidates}"
    )
    budget = "" if args.budget is None else f" --budget {args.budget}"
    shown = name if Path(args.model).is_absolute() else args.model
    command = f"python benchmarks/facts.py --model {shown} {sizes}{budget}"
    publish(bench.seen, args.results, name, about, command)


def publish(seen: Measured, folder: Path, name: str, about: dict[str, Any], command: str) -> None:
    """The page, the numbers and the drawing of everything measured so far."""
    stem = folder / f"{datetime.date.today()}-facts-{name}"
    lines = page(seen, name, about, command)
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = {"about": {**about, "model_name": name}, "measured": seen.values}
    stem.with_suffix(".json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    title = f"{name}: {WINDOW} to {TARGET} tokens, one fact in a known wording per text"
    stem.with_suffix(".png").write_bytes(draw_frontier(points_of(seen), title=title))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
