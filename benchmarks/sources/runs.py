"""The runs of `many_sources.py`: which there are, their documents, and their measurements."""

import itertools
import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import ropewalk
from measurements import Measurements
from ropewalk.evaluate.nll import NllSum, score_windows
from ropewalk.evaluate.retrieval import measure_retrieval
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.schemes import CLOSED_FORMS, scheme_factors
from ropewalk.text.splits import SEARCH_TOKENS, VALIDATION_TOKENS, DocumentSplit
from ropewalk.text.tokens import DocumentSet, token_documents
from ropewalk.text.windows import truncate
from sources.texts import CORPORA

WINDOW = 256
MODELS = {"scale-model": "scale-model", "today-model": str(Path(__file__).parents[1] / "today-model")}
SOURCES = ("library", *CORPORA)
RATIOS = (2, 4, 8, 16)
# 20 of the 24: each model loses two, each ratio one, the library two and the others one.
LEFT_OUT = (
    ("scale-model", "library", 8),
    ("scale-model", "pages", 2),
    ("today-model", "packages", 4),
    ("today-model", "library", 16),
)
FEWEST_SEARCH, FEWEST_VALIDATION, NUM_FACTS = 5, 3, 4
RETURNED = "returned"
NEAR = 1.1  # a closed form is near if its perplexity is at most this multiple of the lowest of closed forms
Nats = list[list[float]]  # nats and tokens of each document


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search; its seed draws its documents too."""

    model: str
    source: str
    ratio: int
    seed: int

    @property
    def label(self) -> str:
        return f"{self.model}, {self.source}, {self.ratio}x"

    @property
    def target_length(self) -> int:
        return WINDOW * self.ratio


def selected_runs() -> list[Run]:
    """The 20 runs, short ones of each model first."""
    every = ((model, source, ratio) for model, ratio, source in itertools.product(MODELS, RATIOS, SOURCES))
    kept = [one for one in every if one not in LEFT_OUT]
    return [
        Run(model=model, source=source, ratio=ratio, seed=seed)
        for seed, (model, source, ratio) in enumerate(kept)
    ]


def draw_documents(run: Run, tokenizer: Any, texts: Path, num_unseen: int) -> DocumentSplit:
    """Search, validation and unseen documents of a run, disjoint, drawn with its seed."""
    rng = random.Random(f"many-sources-{run.seed}")

    def shuffled(source: str) -> DocumentSet:
        whole = token_documents(source, tokenizer, length=run.target_length)
        return replace(whole, documents=tuple(rng.sample(whole.documents, len(whole.documents))))

    if run.source == "library":
        searched, unseen = shuffled("stdlib:search"), shuffled("stdlib:held-out").part(0, num_unseen)
    else:
        searched = shuffled(str(texts / run.source))
        unseen = searched.part(0, num_unseen)
        searched = searched.part(num_unseen, len(searched.documents))
    num_search, num_validation = default_numbers(run.target_length, len(searched.documents))
    assert len(unseen.documents) == num_unseen, f"{run.label} has {len(unseen.documents)} unseen documents"
    return DocumentSplit(
        search=searched.part(0, num_search),
        validation=searched.part(num_search, num_search + num_validation),
        test=unseen,
    )


def default_numbers(length: int, found: int) -> tuple[int, int]:
    """Search and validation documents as `ropewalk search` takes them, in proportion if there are fewer."""
    wanted = [
        max(fewest, math.ceil(tokens / length))
        for fewest, tokens in ((FEWEST_SEARCH, SEARCH_TOKENS), (FEWEST_VALIDATION, VALIDATION_TOKENS))
    ]
    share = min(1.0, found / sum(wanted))
    search, validation = (int(share * number) for number in wanted)
    enough = search >= FEWEST_SEARCH and validation >= FEWEST_VALIDATION
    return (search, validation) if enough else (FEWEST_SEARCH, FEWEST_VALIDATION)


def distinct_closed_forms(run: Run, model: Model) -> dict[str, RescaleFactors]:
    """The closed-form schemes at the run's target; of those with the same factors the first."""
    found: dict[str, RescaleFactors] = {}
    for label in CLOSED_FORMS:
        factors = scheme_factors(label, model.geometry, run.target_length)
        if all(factors.as_values() != other.as_values() for other in found.values()):
            found[label] = factors
    return found


def sums_of(nats: Nats) -> list[NllSum]:
    """The NLL of each document."""
    return [NllSum(nll_sum_nats=nll, num_tokens=int(tokens)) for nll, tokens in nats]


def perplexity(nats: Nats) -> float:
    """Over all documents."""
    return reduce(add, sums_of(nats)).perplexity


def near_closed_forms(nats: Mapping[str, Nats]) -> dict[str, float]:
    """The perplexity of each closed form that is near the best, the best first."""
    total = {name: perplexity(one) for name, one in nats.items() if name != RETURNED}
    limit = NEAR * min(total.values())
    return {name: total[name] for name in sorted(total, key=total.__getitem__) if total[name] <= limit}


class RunBench:
    """Measures one run, each measurement once."""

    def __init__(
        self, run: Run, model: Model, kept: Measurements, texts: Path, *, num_unseen: int, num_questions: int
    ) -> None:
        self.run, self.model, self.kept, self.texts = run, model, kept, texts
        self.num_questions = num_questions
        split = draw_documents(run, model.tokenizer, texts, num_unseen)
        assert split.validation is not None
        assert split.test is not None
        self.search, self.validation, self.unseen = split.search, split.validation, split.test

    def measure(self) -> None:
        self._measure("documents", self._documents)
        factors = {RETURNED: self._search(), **distinct_closed_forms(self.run, self.model)}
        nats = {name: self._measure(f"nats {name}", partial(self._nats, f)) for name, f in factors.items()}
        for name in (RETURNED, *near_closed_forms(nats)):
            self._measure(f"found {name}", partial(self._found, factors[name]))

    def _measure(self, name: str, measurement: Callable[[], Any]) -> Any:
        return self.kept.measure(f"{self.run.label} / {name}", measurement)

    def _search(self) -> RescaleFactors:
        """The factors that the default search returns."""
        made = self._measure("search", self._searched)
        print(f"{self.run.label}: {made['about']}", file=sys.stderr)
        values = made["returned"]
        return RescaleFactors.single(
            geometry=self.model.geometry,
            target_length=values["target_length"],
            rescale_factors=values["rescale_factors"][0],
            num_start_tokens=values["num_start_tokens"],
            attention_factor=values["attention_factor"],
        )

    def _searched(self) -> dict[str, Any]:
        started = time.perf_counter()
        found = ropewalk.search_factors(
            self.model,
            self.search,
            validation_documents=self.validation,
            target_length=self.run.target_length,
            seed=self.run.seed,
        )
        choice = found.outcome.choice
        assert choice is not None
        return {
            "returned": found.factors.as_values(),
            "closed_form": None if found.closed_form is None else found.closed_form.label,
            "about": found.about_choice,
            "cost": found.outcome.cost,
            "cost_of_choice": choice.cost,
            "seconds": time.perf_counter() - started,
        }

    def _documents(self) -> dict[str, Any]:
        """Hashes and names, which have no path of this machine."""
        sets = {"search": self.search, "validation": self.validation, "unseen": self.unseen}
        return {
            role: {
                "sha256": one.data_sha256,
                "names": [document.name.replace(f"{self.texts}/", "") for document in one.documents],
            }
            for role, one in sets.items()
        }

    def _nats(self, factors: RescaleFactors) -> Nats:
        """Of each unseen document."""
        with self.model.using(factors):
            sums = [
                score_windows(self.model.model, truncate(document, self.run.target_length))
                for document in self.unseen.documents
            ]
        return [[one.nll_sum_nats, one.num_tokens] for one in sums]

    def _found(self, factors: RescaleFactors) -> list[str]:
        """Of each unseen document, a digit per question: 1 if its answer is right."""
        settings = RetrievalSettings(
            num_questions=self.num_questions, num_facts=NUM_FACTS, wordings="known", seed=self.run.seed
        )
        (record,) = measure_retrieval(
            self.model, self.unseen, [self.run.target_length], factors={"x": lambda _: factors},
            settings=settings,
        )  # fmt: skip
        answers = [""] * len(self.unseen.documents)
        for result in record.by_question or ():
            assert result.document is not None
            answers[result.document] += str(int(result.is_found))
        return answers
