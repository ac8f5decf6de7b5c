"""Perplexity against retrieval: closed forms, tuned ramps and searches with several weights, at 8x.

    python benchmarks/facts.py --model scale-model --out FOLDER
    python benchmarks/facts.py --model benchmarks/today-model --out FOLDER --seeds 0,1,2,3,4

Searches read documents of `stdlib:search`; everything is measured on `stdlib:held-out`. Each measurement is
saved as it ends; the same command continues. In the end `results/DATE-facts-NAME.md` and `.json` are written.
"""

import argparse
import datetime
import sys
import time
from functools import partial, reduce
from importlib.metadata import version
from operator import add
from pathlib import Path
from typing import Any

import ropewalk
from evaluator import processor
from measurements import Measurements, default_folder, surroundings
from ropewalk.evaluate.intervals import paired_difference
from ropewalk.evaluate.nll import NllSum, score_windows
from ropewalk.evaluate.retrieval import measure_retrieval
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import CLOSED_FORMS, scheme_factors
from ropewalk.search.settings import SearchSettings
from ropewalk.text.tokens import token_documents
from ropewalk.text.windows import truncate

RESULTS = Path(__file__).parent / "results"
WINDOW, TARGET = 256, 2048
LENGTHS = (256, 512, 1024, 2048)
NUM_DOCUMENTS, NUM_SEARCH, NUM_VALIDATION = 10, 5, 3
NUM_QUESTIONS = 200
SEEN, UNSEEN, FOUR = "one, known wordings", "one, unseen wordings", "four, unseen wordings"
KINDS = {
    SEEN: {"num_facts": 1, "wordings": "known"},
    UNSEEN: {"num_facts": 1, "wordings": "held-out"},
    FOUR: {"num_facts": 4, "wordings": "held-out"},
}
RAMPS = tuple(
    f"yarn:beta_fast={fast:g},beta_slow={slow:g}"
    for fast, slow in ((16, 0.5), (16, 1), (8, 1), (64, 1), (32, 2))
)
FAR_BEHIND = (
    "none",
    "pi",
    "ntk",
    "dynamic-ntk",
    "yarn-paper",
    "llama3",
    "yarn:attention_factor=1",
)  # see the demo
WEIGHTS = (0.05, 0.1, 0.2, 0.4)


class Bench:
    """Measures factors of one model."""

    def __init__(self, model: Model, kept: Measurements, num_questions: int) -> None:
        self.model, self.kept, self.num_questions = model, kept, num_questions
        read = partial(token_documents, tokenizer=model.tokenizer, length=TARGET)
        self.search = read("stdlib:search", num_documents=NUM_SEARCH + NUM_VALIDATION)
        self.test = read("stdlib:held-out", num_documents=NUM_DOCUMENTS)
        self.many = read("stdlib:held-out", num_documents=num_questions)

    def searched(self, label: str, **settings: Any) -> RescaleFactors:
        """The factors of a search, and its cost, once."""

        def run() -> dict[str, Any]:
            started = time.perf_counter()
            found = ropewalk.search_factors(
                self.model,
                self.search.part(0, NUM_SEARCH),
                validation_documents=self.search.part(NUM_SEARCH, NUM_SEARCH + NUM_VALIDATION),
                target_length=TARGET,
                **settings,
            )
            choice = found.outcome.choice
            assert choice is not None
            return {
                "written": found.factors.as_values(),
                "searched": found.searched_factors.as_values(),
                "closed_form": None if found.closed_form is None else found.closed_form.label,
                "about": found.about_choice,
                "cost": found.outcome.cost,
                "cost_of_choice": choice.cost,
                "largest_error": found.outcome.largest_error,
                "seconds": time.perf_counter() - started,
            }

        made = self.kept.measure(f"search {label}", run)
        print(label, made["about"], f"{made['cost']:.2f} + {made['cost_of_choice']:.2f}", file=sys.stderr)
        return self.of_values(made["written"])

    def of_values(self, values: dict[str, Any]) -> RescaleFactors:
        return RescaleFactors.single(
            geometry=self.model.geometry,
            target_length=TARGET,
            rescale_factors=values["rescale_factors"][0],
            num_start_tokens=values["num_start_tokens"],
            attention_factor=values["attention_factor"],
        )

    def measure(self, label: str, factors: RescaleFactors | None, lengths: tuple[int, ...] = LENGTHS) -> None:
        """Perplexity at the target and retrieval at every length."""
        if factors is not None:
            self.kept.measure(f"nats {label}", partial(self._nats, factors))
        for kind, settings in KINDS.items():
            for length in lengths:
                self.kept.measure(
                    f"found {label} / {kind} / {length}", partial(self._found, factors, length, settings)
                )

    def _nats(self, factors: RescaleFactors) -> list[list[float]]:
        with self.model.using(factors):
            sums = [score_windows(self.model.model, truncate(d, TARGET)) for d in self.test.documents]
        return [[one.nll_sum_nats, one.num_tokens] for one in sums]

    def _found(self, factors: RescaleFactors | None, length: int, settings: dict[str, Any]) -> Any:
        asked = RetrievalSettings(num_questions=self.num_questions, seed=1, **settings)
        (record,) = measure_retrieval(
            self.model, self.many, [length], factors={"x": lambda _: factors}, settings=asked
        )
        return record.as_json()["by_question"]

    def _right(self, label: str, kind: str, length: int) -> int:
        """How many questions were answered."""
        return sum(one["is_found"] for one in self.kept.measured[f"found {label} / {kind} / {length}"])

    def page(self, name: str, command: str) -> list[str]:
        """The table of everything measured at the target, and the searches."""
        measured = self.kept.measured
        labels = [key.removeprefix("nats ") for key in measured if key.startswith("nats ")]
        sums = {
            label: [NllSum(nll_sum_nats=n, num_tokens=t) for n, t in measured[f"nats {label}"]]
            for label in labels
        }
        total = {label: reduce(add, of_documents).perplexity for label, of_documents in sums.items()}
        closed = [label for label in labels if label in CLOSED_FORMS]
        best = min(closed, key=lambda label: total[label])
        head = ["factors", "perplexity", f"against {best}", *KINDS]
        lines = [
            f"# Perplexity and facts, {name}, {datetime.date.today()}",
            "",
            f"`{command}`; torch {version('torch')}, transformers {version('transformers')}, {processor()},",
            f"one thread. {WINDOW} to {TARGET} tokens. Perplexity on {NUM_DOCUMENTS} documents, with its",
            "difference paired by document (Student's interval, 95%); answers right of",
            f"{self.num_questions} questions. Ramps are closed forms with other parameters, whose choice on",
            "these documents would be a fit to them.",
            "",
            "| " + " | ".join(head) + " |",
            "| --- | ---: | --- |" + " ---: |" * len(KINDS),
        ]
        for label in labels:
            against = "" if label == best else str(paired_difference(sums[label], sums[best]))
            found = [self._right(label, kind, TARGET) for kind in KINDS]
            lines.append(
                f"| {label} | {total[label]:.3f} | {against} | " + " | ".join(map(str, found)) + " |"
            )
        base = [self._right("base model", kind, WINDOW) for kind in KINDS]
        lines += ["", f"The base model inside its window answers {', '.join(map(str, base))}.", ""]
        lines += [
            "| search | what was chosen | evaluations | largest error of kept keys, nats |",
            "| --- | --- | ---: | ---: |",
        ]
        for key, made in measured.items():
            if key.startswith("search "):
                error = "-" if made["largest_error"] is None else f"{made['largest_error']:.4f}"
                cost = f"{made['cost']:.2f} + {made['cost_of_choice']:.2f}"
                lines.append(f"| {key.removeprefix('search ')} | {made['about']} | {cost} | {error} |")
        return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="scale-model")
    parser.add_argument("--out", type=Path, default=default_folder("facts"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--weights", default=",".join(map(str, WEIGHTS)))
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS)
    parser.add_argument("--budget", type=int, default=SearchSettings().num_evaluations)
    args = parser.parse_args()
    model = load_model(args.model)
    lengths = tuple(map(int, args.lengths.split(",")))
    about = {
        **surroundings(("ropewalk", "torch", "transformers"), __file__),
        "model": model.weights_sha256,
        "questions": args.questions,
    }
    bench = Bench(model, Measurements(args.out, about), args.questions)
    bench.measure("base model", None, (WINDOW,))
    for scheme in (*CLOSED_FORMS, *RAMPS):
        if scheme not in FAR_BEHIND:
            bench.measure(scheme, scheme_factors(scheme, model.geometry, TARGET), lengths)
    for seed in map(int, args.seeds.split(",")):
        for weight in map(float, args.weights.split(",")):
            label = f"searched, weight {weight:g}, seed {seed}"
            factors = bench.searched(label, seed=seed, answer_weight=weight, budget=args.budget)
            bench.measure(label, factors, lengths)
        label = f"searched, perplexity, seed {seed}"
        bench.measure(
            label, bench.searched(label, seed=seed, objective="perplexity", budget=args.budget), lengths
        )


if __name__ == "__main__":
    main()
