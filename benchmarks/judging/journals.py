"""The journals of evolutions that were landed, and which of their candidates are measured."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.models.model import Model
from ropewalk.search.journal import read_trials
from ropewalk.search.objective import TermReadings
from ropewalk.search.objectives import ObjectiveTask, make_readings
from ropewalk.search.space import SearchSpace
from ropewalk.search.trial import Trial
from ropewalk.text.tokens import token_documents

SOURCE = "stdlib:search"  # the journals name it `stdlib`


@dataclass(frozen=True, kw_only=True)
class EvolutionJournal:
    """An evolution that read its documents in full.

    Attributes:
        name: of its folder.
        identity: of its first line.
        ranked: its candidates with a value, the best first, without the check of n-hat 0.
    """

    name: str
    identity: dict[str, Any]
    ranked: tuple[Trial, ...]

    @property
    def weights_sha256(self) -> str:
        """Of the model whose values these are."""
        return str(self.identity["model"]["weights_sha256"])

    @property
    def target_length(self) -> int:
        return int(self.identity["space"]["target_length"])

    def space(self, model: Model) -> SearchSpace:
        """The space of its candidates, as far as their factors and attention factors depend on it."""
        return SearchSpace(
            geometry=model.geometry,
            target_length=self.target_length,
            start_tokens=tuple(self.identity["space"]["start_tokens"]),
            attention_factors=tuple(self.identity["space"]["attention_factors"]),
        )

    def readings(self, model: Model) -> TermReadings:
        """Its documents, as its objective reads them; other documents than its own are refused."""
        text = self.identity["text"]
        documents = token_documents(
            SOURCE, model.tokenizer, length=self.target_length, num_documents=text["num_documents"]
        )
        if documents.data_sha256 != text["data_sha256"]:
            raise SystemExit(
                f"{self.name} was measured on other documents than those of {SOURCE} here: run this with the "
                f"Python version that it names, and with its model's tokenizer."
            )
        task = ObjectiveTask(
            documents=documents,
            tokenizer=model.tokenizer,
            original_length=model.geometry.original_length,
            target_length=self.target_length,
            seed=self.identity["seed"],
        )
        return make_readings("perplexity", task)

    def drawn(self, num_best: int, every: int) -> list[int]:
        """The ranks that are measured, ascending: the best ones, and every N-th of all."""
        return sorted({*range(min(num_best, len(self.ranked))), *range(0, len(self.ranked), every)})


def read_journals(folder: Path, pattern: str) -> Iterator[EvolutionJournal]:
    """The journals of run folders whose search was an evolution on perplexity."""
    for path in sorted(folder.glob(f"{pattern}/journal.jsonl")):
        with path.open() as file:
            identity = json.loads(file.readline())["identity"]
        if "evolution" not in identity["strategy"] or not identity["objective"].startswith("perplexity"):
            continue
        known = [trial for trial in read_trials(path) if trial.kind == "trial" and trial.value is not None]
        ranked = tuple(sorted(known, key=lambda trial: trial.rank))
        yield EvolutionJournal(name=path.parent.name, identity=identity, ranked=ranked)


def of_model(journals: list[EvolutionJournal], model: Model) -> list[EvolutionJournal]:
    """Those that were measured with these weights; none of them is an error."""
    found = [journal for journal in journals if journal.weights_sha256 == model.weights_sha256]
    if not found:
        hashes = sorted({journal.weights_sha256[:12] for journal in journals})
        raise SystemExit(
            f"No journal of an evolution has the weights of {model.name} ({model.weights_sha256[:12]}): give "
            f"a folder with one of the weights {', '.join(hashes)}."
        )
    return found
