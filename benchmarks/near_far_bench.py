"""Measurements of `near_far.py`: the choice of attention factors, and all that `facts.py` measures."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from facts import TUNED_RAMPS
from facts_bench import Bench
from facts_measured import BASE, CLOSED, DEFAULT, RAMPS, Measured, median_of, median_search
from measurements import Measurements
from near_far_measured import BY_LENGTH, SEARCHED, Choice, chosen, near_far_scheme
from ropewalk.models.model import Model
from ropewalk.rope.attention_factor import yarn_attention_factor
from ropewalk.rope.schemes import NEAR_FAR, scheme_factors
from ropewalk.search.objective import Objective

RIVALS = ("yarn", "mrrope-pro", "ntk")
SHARES = (8, 4, 2)  # the windows W are the trained window divided by these


class NearFarBench(Bench):
    """Compares near-far factors with closed forms and searched factors, on unseen documents."""

    def __init__(
        self,
        model: Model,
        kept: Measurements,
        *,
        questions: int,
        documents: int,
        choice_documents: int,
        target: int,
        lengths: Sequence[int],
        seeds: int,
    ) -> None:
        """Creates the bench.

        Args:
            choice_documents: on how many search documents attention factors are chosen.
            seeds: of the search of near-far factors.
        """
        super().__init__(model, kept, questions, documents, target)
        self.choice_documents, self.lengths, self.seeds = choice_documents, lengths, seeds
        self.window = model.geometry.original_length

    def compare(self, searched: Mapping[str, tuple[str, dict[str, Any]]], known: Mapping[str, Any]) -> None:
        """Everything, the cheap and decisive measurements first.

        Args:
            searched, known: as from `searched_factors` and `known_measurements`.
        """
        for name, value in known.items():
            self.kept.measure(name, partial(lambda found: found, value))
        windows = [self.window // share for share in SHARES]
        for window in windows:
            self.choose(window)
        near_far = [best.scheme for window in windows if (best := chosen(self.seen, window)) is not None]
        groups = {
            **dict.fromkeys(near_far, NEAR_FAR),
            **dict.fromkeys(RIVALS, CLOSED),
            **dict.fromkeys(TUNED_RAMPS, RAMPS),
        }
        made = {label: self.closed_form(label, group) for label, group in groups.items()}
        near_far_searched = [f"near-far search, seed {seed}" for seed in range(self.seeds)]
        for seed, label in enumerate(near_far_searched):
            made[label] = self.search_once(label, SEARCHED, near_window="search", seed=seed)
        for label, (group, values) in searched.items():
            factors = self.of_values(values)
            made[label] = self.add(label, group, factors), factors
        for name, factors in made.values():
            self.perplexity(name, factors)
        self.ask(self.add(BASE, BASE, None), None, [self.window])
        best = chosen(self.seen)
        asked = [median_of(self.seen, SEARCHED), None if best is None else best.scheme]
        for label in filter(None, [*asked, "yarn", "mrrope-pro", median_search(self.seen)]):
            print(f"questions: {label}", file=sys.stderr, flush=True)
            self.ask(*made[label], self.lengths)
        self.by_length()

    def by_length(self) -> None:
        """The closed form with its defaults, made for the length of each text, as a factor set has them."""
        print(f"questions: {BY_LENGTH}", file=sys.stderr, flush=True)
        for length in self.lengths:
            self.ask(BY_LENGTH, scheme_factors(NEAR_FAR, self.model.geometry, length), [length])
        factors = scheme_factors(NEAR_FAR, self.model.geometry, self.target)
        self.perplexity(self.add(BY_LENGTH, NEAR_FAR, factors), factors)

    def choose(self, window: int) -> None:
        """The objective of the default search, for each combination of attention factors."""
        of_yarn = yarn_attention_factor(self.target / self.window)
        for far in (1.0, round((1 + of_yarn) / 2, 3), round(of_yarn, 3)):
            for near in (1.0, round((1 + of_yarn) / 2, 3), round(of_yarn, 3)):
                scheme = near_far_scheme(window, far, near)

                def run(scheme: str = scheme, far: float = far, near: float = near) -> dict[str, Any]:
                    print(f"choice: {scheme}", file=sys.stderr, flush=True)
                    factors = scheme_factors(scheme, self.model.geometry, self.target)
                    value = self.on_search.value_of(factors)
                    return Choice(window=window, far=far, near=near, value=value).as_json()

                self.kept.measure(f"choice {scheme}", run)

    @cached_property
    def on_search(self) -> Objective:
        """The objective of the default search on the first search documents, read in full."""
        return self.objective(self.search.part(0, self.choice_documents))


def searched_factors(file: Path, model: Model, target: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """The factors that `facts.py` searched for this model: label to group and values.

    Raises:
        SystemExit: the file is of other weights or of another target.
    """
    document = json.loads(file.read_bytes())
    seen = Measured(document["measured"])
    if document["about"]["model"] != model.weights_sha256:
        raise SystemExit(f"{file} was measured on other weights: give a file of this model with --searched.")
    found = {}
    for label in seen.labels(DEFAULT):
        made, group = seen.search(label), seen.values[f"factors {label}"]["group"]
        assert made is not None, label
        if made["written"]["target_length"] != target:
            raise SystemExit(f"{file} has factors for another target than {target}: give another --searched.")
        found[label] = group, made["written"]
    return found


def known_measurements(file: Path, questions: int, documents: int) -> dict[str, Any]:
    """Perplexities and answers that `facts.py` measured on the same documents and with the same questions."""
    document = json.loads(file.read_bytes())
    if (document["about"]["questions"], document["about"]["documents"]) != (questions, documents):
        return {}
    measured: dict[str, Any] = document["measured"]
    return {name: value for name, value in measured.items() if name.startswith(("nats ", "found "))}
