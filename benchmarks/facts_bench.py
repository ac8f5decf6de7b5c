"""Measurements of `facts.py`: searches, perplexity, answers, exact values."""

import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import ropewalk
from evolution_counted import CountedEvolution
from facts_measured import EVOLUTION, FOUR, NUM_SCREENED, SEEN, TARGET, UNSEEN, Measured
from measurements import Measurements
from ropewalk.evaluate.nll import score_windows
from ropewalk.evaluate.retrieval import measure_retrieval
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.objective import Objective
from ropewalk.search.plan import plan_search
from ropewalk.search.result import SearchResult
from ropewalk.search.settings import SearchSettings
from ropewalk.text.tokens import DocumentSet, token_documents
from ropewalk.text.windows import truncate

NUM_SEARCH, NUM_VALIDATION = 24, 8  # what `ropewalk search` takes at this target
NUM_EVOLVED = 5  # an evolution reads every one of them in full for each candidate
KINDS = {
    SEEN: {"num_facts": 1, "wordings": "known"},
    UNSEEN: {"num_facts": 1, "wordings": "held-out"},
    FOUR: {"num_facts": 4, "wordings": "held-out"},
}
# Space and n-hat of the paper, attention factor of the default search.
AS_THE_PAPER: dict[str, Any] = {
    "strategy": f"{CountedEvolution.__module__}:{CountedEvolution.__name__}",
    "space": "full",
    "serve_with": "ropewalk",
    "start_tokens": "search",
    "attention_factor": "search",
}


class Bench:
    """Measures factors of one model for one target length; `seen` reads what was measured."""

    def __init__(
        self,
        model: Model,
        kept: Measurements,
        num_questions: int,
        num_documents: int,
        target: int = TARGET,
    ) -> None:
        self.model, self.kept, self.num_questions, self.target = model, kept, num_questions, target
        read = partial(token_documents, tokenizer=model.tokenizer, length=target)
        self.search = read("stdlib:search", num_documents=NUM_SEARCH + NUM_VALIDATION)
        self.asked = read("stdlib:held-out", num_documents=num_questions)
        self.test = self.asked.part(0, min(num_documents, len(self.asked.documents)))
        self.started = time.perf_counter()

    @property
    def seen(self) -> Measured:
        return Measured(self.kept.measured)

    def add(self, label: str, group: str, factors: RescaleFactors | None) -> str:
        """Records factors under a label; the label of the first factors with these values is measured."""

        def record() -> dict[str, Any]:
            values = None if factors is None else factors.as_values()
            return {"group": group, "as": self.seen.first_with(values) or label, "values": values}

        minutes = (time.perf_counter() - self.started) / 60
        print(f"{minutes:.1f} min: {label}", file=sys.stderr)
        name: str = self.kept.measure(f"factors {label}", record)["as"]
        return name

    def closed_form(self, scheme: str, group: str) -> tuple[str, RescaleFactors]:
        """The label that is measured, and the factors."""
        factors = scheme_factors(scheme, self.model.geometry, self.target)
        return self.add(scheme, group, factors), factors

    def perplexity(self, name: str, factors: RescaleFactors) -> None:
        """The nats of each unseen document at the target length."""

        def run() -> list[list[float]]:
            with self.model.using(factors):
                windows = [truncate(document, self.target) for document in self.test.documents]
                sums = [score_windows(self.model.model, window) for window in windows]
            return [[one.nll_sum_nats, one.num_tokens] for one in sums]

        self.kept.measure(f"nats {name}", run)

    def ask(
        self,
        name: str,
        factors: RescaleFactors | None,
        lengths: Sequence[int],
        kinds: Sequence[str] = (*KINDS,),
    ) -> None:
        """All questions of some kinds."""
        for length in lengths:
            for kind in kinds:
                run = partial(self._found, factors, length, KINDS[kind], self.num_questions)
                self.kept.measure(f"found {name} / {kind} / {length}", run)

    def screen(self, name: str, factors: RescaleFactors, lengths: Sequence[int]) -> None:
        """The first questions of one kind."""
        for length in lengths:
            run = partial(self._found, factors, length, KINDS[SEEN], min(NUM_SCREENED, self.num_questions))
            self.kept.measure(f"screened {name} / {length}", run)

    def _found(self, factors: RescaleFactors | None, length: int, settings: Any, num_questions: int) -> Any:
        asked = RetrievalSettings(num_questions=num_questions, seed=1, **settings)
        (record,) = measure_retrieval(
            self.model, self.asked, [length], factors={"x": lambda _: factors}, settings=asked
        )
        return [[one["is_found"], one["document"]] for one in record.as_json()["by_question"]]

    def search_once(self, label: str, group: str, **settings: Any) -> tuple[str, RescaleFactors]:
        """A search with validation documents: the label that is measured, and the factors written."""

        def run() -> dict[str, Any]:
            started = time.perf_counter()
            found = ropewalk.search_factors(
                self.model,
                self.search.part(0, NUM_SEARCH),
                validation_documents=self.search.part(NUM_SEARCH, NUM_SEARCH + NUM_VALIDATION),
                target_length=self.target,
                **settings,
            )
            return about_search(found, time.perf_counter() - started)

        factors = self.of_values(self.kept.measure(f"search {label}", run)["written"])
        return self.add(label, group, factors), factors

    def evolve(self, label: str, num_candidates: int, *, exact: bool) -> tuple[str, RescaleFactors]:
        """An evolution without validation documents and closed forms, which would end it earlier."""
        documents = self.search.part(0, NUM_EVOLVED)

        def run() -> dict[str, Any]:
            started = time.perf_counter()
            found = ropewalk.search_factors(
                self.model,
                documents,
                target_length=self.target,
                closed_forms=False,
                budget=self._budget_of(num_candidates, documents, exact=exact),
                exact=exact,
                strategy_settings={"num_candidates": num_candidates},
                **AS_THE_PAPER,
            )
            return about_search(found, time.perf_counter() - started)

        factors = self.of_values(self.kept.measure(f"search {label}", run)["written"])
        return self.add(label, EVOLUTION, factors), factors

    def _budget_of(self, num_candidates: int, documents: DocumentSet, *, exact: bool) -> int:
        """Evaluations that pay for N candidates: a fifth is left for renewals, and the rest needs two."""
        each = self.objective(documents, from_kept=not exact).cost
        return math.ceil((num_candidates * each + 2) / (1.0 if exact else 0.8))

    def exact_values(self, name: str, factors: RescaleFactors) -> None:
        """The default objective, every document read in full: of the search documents and of unseen ones."""

        def run() -> dict[str, float]:
            sets = {"search": self.search.part(0, NUM_SEARCH), "unseen": self.test}
            return {which: self.objective(documents).value_of(factors) for which, documents in sets.items()}

        self.kept.measure(f"value {name}", run)

    def objective(self, documents: DocumentSet, *, from_kept: bool = False) -> Objective:
        """What the default search minimises, on these documents."""
        plan = plan_search(self.model.description, self.target, SearchSettings())
        return plan.objective(self.model, documents, from_kept=from_kept)

    def of_values(self, values: dict[str, Any]) -> RescaleFactors:
        return RescaleFactors.single(
            geometry=self.model.geometry,
            target_length=self.target,
            rescale_factors=values["rescale_factors"][0],
            num_start_tokens=values["num_start_tokens"],
            attention_factor=values["attention_factor"],
            near_window=values.get("near_window", 0),
            near_attention_factor=values.get("near_attention_factor", 1.0),
        )


def about_search(found: SearchResult, seconds: float) -> dict[str, Any]:
    """What the page says of a search; JSON values."""
    outcome, choice = found.outcome, found.outcome.choice
    of_kind = {
        kind: [t for t in outcome.trials if t.kind == kind] for kind in {t.kind for t in outcome.trials}
    }
    return {
        "written": found.factors.as_values(),
        "closed_form": None if found.closed_form is None else found.closed_form.label,
        "about": found.about_choice,
        "num_candidates": len(of_kind.get("trial", [])),
        "cost_of_candidates": sum(trial.cost for trial in of_kind.get("trial", [])),
        "cost_of_renewals": sum(t.renewal.cost for t in outcome.trials if t.renewal is not None),
        "cost": outcome.cost,
        "cost_of_choice": 0.0 if choice is None else choice.cost,
        "stopped_by": outcome.stopped_by,
        "largest_error": outcome.largest_error,
        "seconds": seconds,
    }
