"""How near candidates judged from kept keys are to candidates that are read exactly, and what they cost.

    python benchmarks/kept_keys.py --out FOLDER --smollm2 FILE.gguf \
        --journals-of FOLDER --journals-of FOLDER        # all parts
    python benchmarks/kept_keys.py --out FOLDER --parts lengths,cost        # the bundled model alone

    journals     candidates of the landed evolutions, whose models (earlier weights) are given as folders
    lengths      mutations of YaRN on `--model`, objective facts: lengths, keys in half precision, distances
    deep         the same on SmolLM2-135M-Instruct (30 layers): 2048 tokens are read, factors for 16384
    cost         seconds of a candidate and of a gradient, judged and read
    arithmetic   from which length on the paper's 1344 candidates cost at most 5 readings; measures nothing

Each block of candidates is saved as it ends; the same command continues. In the end `results/DATE-NAME.md`
and `.json` are written.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from evaluator import publish
from judging.journals import SOURCE, EvolutionJournal, of_model, read_journals
from judging.judge import Judge, KeptUnder, Row, judge_all
from judging.mutated import around_yarn
from judging.page import BEST, FULL_PRECISION, PUBLISHED, YARN, page_of
from judging.timing import measure_times
from measurements import Measurements, default_folder, surroundings
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.objective import TermReadings
from ropewalk.search.objectives import ObjectiveTask, make_readings
from ropewalk.search.plan import search_space
from ropewalk.search.renewal import distance
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.text.tokens import token_documents

RACE = Path(__file__).parent / "results" / "race"
PARTS = ("journals", "lengths", "deep", "cost", "arithmetic")
DTYPES = {FULL_PRECISION: None, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEEP_TARGET = 16384
SEED = 0  # of mutations and facts
SETTINGS = SearchSettings(strategy="evolution", attention_factor="search")


class Bench:
    """Measures the parts; what is found is JSON values."""

    def __init__(self, measurements: Measurements, args: argparse.Namespace) -> None:
        self.measurements, self.args = measurements, args
        self.model = cache(partial(load_model, args.model))

    def journals(self) -> list[dict[str, Any]]:
        """A result per journal of a given model."""
        known = list(read_journals(self.args.race, self.args.journals))
        return [
            self._journal(journal, model)
            for model in map(load_model, self.args.journals_of)
            for journal in of_model(known, model)
        ]

    def _journal(self, journal: EvolutionJournal, model: Model) -> dict[str, Any]:
        space, ranks = journal.space(model), journal.drawn(self.args.best, self.args.every)
        yarn = scheme_factors("yarn", model.geometry, space.target_length)
        under = {
            YARN: KeptUnder(candidate=space.snap(yarn)),
            PUBLISHED: KeptUnder(
                candidate=Candidate(
                    rescale_factors=yarn.rescale_factors[0],
                    num_start_tokens=yarn.num_start_tokens,
                    attention_factor=yarn.attention_factor,
                )
            ),
            BEST: KeptUnder(candidate=journal.ranked[0].candidate),
        }
        trials = [journal.ranked[rank] for rank in ranks]
        candidates = [trial.candidate for trial in trials]
        rows = judge_all(
            self.measurements,
            f"journal {journal.name}",
            candidates,
            lambda: Judge(model, space, journal.readings(model), under),
        )
        return {
            **described(journal.name, model, space, journal.identity["text"]["num_documents"]),
            **judged(candidates, rows, under),
            "weights": [1.0],
            "ranks": ranks,
            "num_candidates": len(journal.ranked),
            "every": self.args.every,
            "best": self.args.best,
            "journalled": [trial.value for trial in trials],
        }

    def lengths(self) -> list[dict[str, Any]]:
        """A result per length."""
        return [
            self._mutated(
                f"{Path(self.model().name).name}, {length} tokens",
                self.model(),
                self._facts(self.model(), length, self.args.documents),
                search_space(self.model().geometry, length, SETTINGS),
                self.args.candidates,
                DTYPES,
            )
            for length in self.args.lengths
        ]

    def deep(self) -> list[dict[str, Any]]:
        """The result of SmolLM2."""
        model = load_model(self.args.smollm2)
        readings = self._facts(model, self.args.deep_length, self.args.deep_documents)
        name = f"SmolLM2-135M-Instruct, {self.args.deep_length} tokens, factors for {DEEP_TARGET}"
        space = search_space(model.geometry, DEEP_TARGET, SETTINGS)
        return [
            self._mutated(name, model, readings, space, self.args.deep_candidates, {FULL_PRECISION: None})
        ]

    def cost(self) -> list[dict[str, Any]]:
        """A result per length, of one document."""
        return [
            self.measurements.measure(
                f"{self._hash(self.model())} cost {length}", partial(self._times, length)
            )
            for length in self.args.lengths
        ]

    def _times(self, length: int) -> dict[str, Any]:
        model = self.model()
        space = search_space(model.geometry, length, SETTINGS)
        yarn, candidate, *_ = map(space.to_factors, around_yarn(space, 1, seed=SEED))
        print(f"cost at {length} tokens", file=sys.stderr, flush=True)
        readings = self._facts(model, length, 1)
        return measure_times(model, readings, yarn, candidate, self.args.rounds).as_dict()

    def _mutated(
        self,
        name: str,
        model: Model,
        readings: TermReadings,
        space: SearchSpace,
        number: int,
        dtypes: Mapping[str, torch.dtype | None],
    ) -> dict[str, Any]:
        """Mutations of YaRN, judged from keys that are kept under YaRN in some types."""
        candidates = around_yarn(space, number, seed=SEED)
        under = {label: KeptUnder(candidate=candidates[0], dtype=dtype) for label, dtype in dtypes.items()}
        make_judge = cache(lambda: Judge(model, space, readings, under))
        rows = judge_all(self.measurements, f"{self._hash(model)} {name}", candidates, make_judge)
        share = self.measurements.measure(
            f"{self._hash(model)} {name} / share of queries", lambda: make_judge().share_of_queries
        )
        return {
            **described(name, model, space, readings.num_documents),
            **judged(candidates, rows, under),
            "terms": [term.name for term in readings.terms],
            "weights": [term.weight for term in readings.terms],
            "share_of_queries": share,
        }

    def _facts(self, model: Model, length: int, num_documents: int) -> TermReadings:
        """Documents with facts, as the default search reads them."""
        documents = token_documents(SOURCE, model.tokenizer, length=length, num_documents=num_documents)
        task = ObjectiveTask(
            documents=documents,
            tokenizer=model.tokenizer,
            original_length=model.geometry.original_length,
            target_length=length,
            seed=SEED,
            answer_weight=SETTINGS.answer_weight,
        )
        return make_readings("facts", task)

    @staticmethod
    def _hash(model: Model) -> str:
        return str(model.weights_sha256)[:12]


def described(name: str, model: Model, space: SearchSpace, num_documents: int) -> dict[str, Any]:
    """What a result is of."""
    return {
        "name": name,
        "weights_sha256": model.weights_sha256,
        "num_layers": model.geometry.num_layers,
        "target_length": space.target_length,
        "num_documents": num_documents,
    }


def judged(candidates: Sequence[Candidate], rows: list[Row], under: dict[str, KeptUnder]) -> dict[str, Any]:
    """The measured rows, and how far each candidate is from what keys were kept under."""
    return {
        "rows": rows,
        "distances": {
            label: [distance(candidate, kept.candidate) for candidate in candidates]
            for label, kept in under.items()
        },
        "start_tokens": {
            label: [abs(one.num_start_tokens - kept.candidate.num_start_tokens) for one in candidates]
            for label, kept in under.items()
        },
    }


def numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=default_folder("kept-keys"))
    parser.add_argument("--parts", default=",".join(PARTS), help="of these, in this order")
    parser.add_argument("--journals-of", action="append", default=[], help="a model's folder; repeatable")
    parser.add_argument("--journals", default="*-8x-evolution*", help="a pattern of run folders")
    parser.add_argument("--race", type=Path, default=RACE, help="the folder of these run folders")
    parser.add_argument("--best", type=int, default=64, help="candidates of each journal, the best ones")
    parser.add_argument("--every", type=int, default=7, help="and every N-th of all, by rank; 1 for all")
    parser.add_argument("--model", default="scale-model", help="of the parts lengths and cost")
    parser.add_argument("--lengths", type=numbers, default=(2048, 8192))
    parser.add_argument("--candidates", type=int, default=48)
    parser.add_argument("--documents", type=int, default=3)
    parser.add_argument("--smollm2", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf, of the part deep")
    parser.add_argument("--deep-candidates", type=int, default=12)
    parser.add_argument("--deep-documents", type=int, default=2)
    parser.add_argument("--deep-length", type=int, default=2048, help="tokens that are read")
    parser.add_argument("--rounds", type=int, default=5, help="of the part cost")
    parser.add_argument("--name", default="kept-keys", help="of the result files")
    args = parser.parse_args(arguments)
    args.parts = [part for part in PARTS if part in args.parts.split(",")]
    if "journals" in args.parts and not args.journals_of:
        parser.error("the part journals needs --journals-of FOLDER: give it, or leave the part out")
    if "deep" in args.parts and args.smollm2 is None:
        parser.error("the part deep needs --smollm2 FILE: give it, or leave the part out")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse(arguments)
    sizes = ("best", "every", "candidates", "documents", "deep_candidates", "deep_documents", "rounds")
    about = {
        **surroundings(("ropewalk", "torch", "transformers"), __file__),
        "seed": SEED,
        "sizes": {size: getattr(args, size) for size in sizes},
    }
    bench = Bench(Measurements(args.out, about), args)
    measured = {part: getattr(bench, part)() for part in args.parts if part != "arithmetic"}
    result = {"date": date.today().isoformat(), "parts": args.parts, **about, **measured}
    page = page_of(result)
    publish(args.name, result, page, page)


if __name__ == "__main__":
    main()
