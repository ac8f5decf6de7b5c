"""The bench: models, texts, searches and trainings of the tables, and every cell that they ask for.

A table is a function that asks the bench for what it shows. The same function serves three times: to count
what is still to be done, to do it, and to show what there is; what is not there then is None.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from miniature.attention import attention_on_first
from miniature.cells import Cell, CellStore
from miniature.extended import ExtensionRun, Model
from miniature.readings import Reading, Share
from miniature.settings import Settings
from ropewalk.cli.output import clock, say
from ropewalk.errors import RunFolderError
from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.passkey import measure_passkey
from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.finetune.data.mixture import Mixture, MixtureSettings
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.finetune.train import finetune_model
from ropewalk.finetune.training_folder import MODEL, RESULT
from ropewalk.models.model import Model as LoadedModel
from ropewalk.models.model import load_model
from ropewalk.recipe.progress import TRAINING_COST, forward_work
from ropewalk.report.comparison import SLIDING, measure_sliding_window
from ropewalk.search.run_folder import RunFolder
from ropewalk.search.search import search_factors
from ropewalk.text.tokens import DocumentSet, token_documents

Task = Literal["count", "run", "show"]
TRIALS_A_CELL = 10  # as many as there are depths
SECONDS_BETWEEN_LINES = 15.0
BASE = "base"


@dataclass
class Bench:
    """See above.

    Attributes:
        out: where cells, searches and trainings lie.
        run: of `ropewalk extend`, for the tables that need one.
        task: what is done with what a table asks for.
        used: every finished cell that was asked for, by table.
    """

    settings: Settings
    out: Path
    run: ExtensionRun | None = None
    task: Task = "run"
    table: str = ""
    used: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    num_missing: int = 0
    work_left: float = 0.0
    _counted: set[str] = field(default_factory=set)
    _timed: tuple[float, float] = (0.0, 0.0)  # work and seconds of what was measured
    _last_said: float = 0.0
    _texts: dict[tuple[str, int, int], DocumentSet] = field(default_factory=dict)
    _loaded: dict[tuple[str, str], LoadedModel] = field(default_factory=dict)

    def begin(self, task: Task, table: str = "") -> None:
        """Turn to another task or table."""
        self.task, self.table = task, table
        self.used.setdefault(table, {})
        self.num_missing = 0

    # ------------------------------------------------------------ models and texts

    @cached_property
    def store(self) -> CellStore:
        return CellStore(self.out / "cells")

    @cached_property
    def base(self) -> Model:
        return Model(BASE, self._load(self.settings.model, BASE).weights_sha256)

    @property
    def base_loaded(self) -> LoadedModel:
        return self._load(self.settings.model, BASE)

    @property
    def geometry(self) -> RopeGeometry:
        return self.base_loaded.geometry

    @property
    def window(self) -> int:
        return self.geometry.original_length

    def loaded(self, model: Model, attention: str = "sdpa") -> LoadedModel:
        """The model in memory.

        Raises:
            RunFolderError: its weights are others than when it was named.
        """
        name = self.settings.model if model.folder is None else str(model.folder)
        loaded = self._load(name, model.label, attention)
        if loaded.weights_sha256 != model.weights_sha256:
            raise RunFolderError(f"{name} holds other weights than its factors.json says: put them back.")
        return loaded

    def documents(self, length: int, *, num: int | None = None, split: str = "report") -> DocumentSet:
        """Documents of a length: of the held-out text, or with `search` those that searches follow."""
        source = self.settings.report_text if split == "report" else self.settings.search_text
        key = (source, length, num or self.num_documents(length))
        if key not in self._texts:
            self._texts[key] = token_documents(
                source, self.base_loaded.tokenizer, length=length, num_documents=key[2]
            )
        return self._texts[key]

    def num_documents(self, length: int) -> int:
        """How many a perplexity at a length is measured on, at most."""
        is_long = length > self.settings.long_from * self.window
        return self.settings.num_long_documents if is_long else self.settings.num_documents

    def _load(self, name: str, label: str, attention: str = "sdpa") -> LoadedModel:
        """Named by its label: where it lies on this machine is no part of a record."""
        if (name, attention) not in self._loaded:
            loaded = load_model(name, attn_implementation=attention)
            loaded.name = label
            self._loaded[name, attention] = loaded
        return self._loaded[name, attention]

    # ------------------------------------------------------------ cells

    def reading(
        self,
        model: Model | None,
        label: str,
        factors: RescaleFactors | None,
        length: int,
        *,
        plain: bool = False,
    ) -> Reading | None:
        """A perplexity; without factors only where the model is to be read `plain`, as it stands."""
        if model is None or (factors is None and not plain):
            self._unknown(f"perplexity {label}", self.num_documents(length), length)
            return None

        def measure(part: DocumentSet) -> EvalRecord:
            loaded = self.loaded(model)
            (record,) = measure_perplexity(loaded, part, [length], factors={label: lambda _: factors})
            return record

        return self._reading(model, label, factors, length, {"mode": "truncate"}, measure)

    def reading_of_run(self, label: str, of_run: str, length: int) -> Reading | None:
        """The run's own measurement of the same documents, so that they are not read twice; None without one.

        Args:
            of_run: the label in the run's records.
        """
        data = self.documents(length).data_sha256
        record = None if self.run is None else self.run.perplexity(of_run, length, data)
        if record is None or record.by_document is None or record.last_half_by_document is None:
            return None
        self.used[self.table][f"run-perplexity-{of_run}-{length}"] = {"record": record.as_json()}
        return Reading(
            label=label, length=length, sums=record.by_document, last_halves=record.last_half_by_document
        )

    def sliding(self, length: int) -> Reading | None:
        """The base model's window slid over the text; up to the window it reads as it stands."""
        if length <= self.window:
            return self.reading(self.base, SLIDING, None, length, plain=True)
        if (found := self.reading_of_run(SLIDING, SLIDING, length)) is not None:
            return found

        def measure(part: DocumentSet) -> EvalRecord:
            (record,) = measure_sliding_window(self.base_loaded, part, [length])
            return record

        how = {"mode": "sliding", "window": self.window}
        return self._reading(self.base, SLIDING, None, length, how, measure)

    def passkeys(
        self, model: Model | None, label: str, factors: RescaleFactors | None, length: int
    ) -> Share | None:
        """Passkeys found, in cells of ten prompts, each with its own keys and every depth."""
        is_long = length > self.settings.long_from * self.window
        num_trials = self.settings.num_long_trials if is_long else self.settings.num_trials
        if model is None or factors is None:
            self._unknown(f"passkey {label}", num_trials, length)
            return None
        found = 0
        complete = True
        for seed, first in enumerate(range(0, num_trials, TRIALS_A_CELL)):
            count = min(TRIALS_A_CELL, num_trials - first)
            cell = Cell(
                inputs={**self._inputs("passkey", model, factors, length), "trials": count, "seed": seed},
                about={"model": model.label, "factors": label},
                work=count * self.passes(length),
            )

            def measure(count: int = count, seed: int = seed) -> dict[str, Any]:
                loaded, at = self.loaded(model), {label: lambda _: factors}
                (record,) = measure_passkey(loaded, [length], factors=at, num_trials=count, seed=seed)
                return {"found": record.found, "n": record.n, "by_depth": list(record.by_depth or ())}

            content = self._cell(cell, measure)
            complete = complete and content is not None
            found += 0 if content is None else content["result"]["found"]
        return Share(label=label, length=length, found=found, n=num_trials) if complete else None

    def attention(
        self, model: Model, label: str, factors: RescaleFactors | None, length: int, num_first: list[int]
    ) -> list[dict[str, Any]] | None:
        """`attention_on_first`, a document each."""
        results = []
        for part in self._parts(length):
            cell = Cell(
                inputs={
                    **self._inputs("attention", model, factors, length),
                    "data": part.data_sha256,
                    "first": num_first,
                },
                about={"model": model.label, "factors": label, "document": part.documents[0].name},
                work=2 * self.passes(length),
            )

            def measure(part: DocumentSet = part) -> dict[str, Any]:
                loaded = self.loaded(model, attention="eager")
                return attention_on_first(loaded, part.documents[0], factors, num_first)

            results.append(self._cell(cell, measure))
        known = [content["result"] for content in results if content is not None]
        return known if len(known) == len(results) else None

    def _reading(
        self,
        model: Model,
        label: str,
        factors: RescaleFactors | None,
        length: int,
        how: dict[str, Any],
        measure: Callable[[DocumentSet], EvalRecord],
    ) -> Reading | None:
        results = []
        for part in self._parts(length):
            cost = self.passes(length)
            if how["mode"] == "sliding":
                cost = length / (self.window // 4) * self.passes(self.window)
            cell = Cell(
                inputs={
                    **self._inputs("perplexity", model, factors, length),
                    "data": part.data_sha256,
                    **how,
                },
                about={"model": model.label, "factors": label, "document": part.documents[0].name},
                work=cost,
            )

            def measure_part(part: DocumentSet = part) -> dict[str, Any]:
                return _summed(measure(part))

            results.append(self._cell(cell, measure_part))
        known = [content["result"] for content in results if content is not None]
        if len(known) < len(results):
            return None
        return Reading(
            label=label,
            length=length,
            sums=tuple(_nll_sum(result["whole"]) for result in known),
            last_halves=tuple(_nll_sum(result["last_half"]) for result in known),
        )

    def _parts(self, length: int) -> list[DocumentSet]:
        documents = self.documents(length)
        return [documents.part(index, index + 1) for index in range(len(documents.documents))]

    def _inputs(self, kind: str, model: Model, factors: RescaleFactors | None, length: int) -> dict[str, Any]:
        values = None if factors is None else factors.as_values()
        if values is not None:
            del values["target_length"]  # nothing that is measured depends on it
        return {"kind": kind, "weights": model.weights_sha256, "factors": values, "length": length}

    def _cell(self, cell: Cell, measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        found = self.store.find(cell)
        if found is None and self.task != "run":
            self._count(cell.name, cell.work)
            return None
        if found is None:
            found = self.store.measure(cell, measure)
            self.did(cell.work, found["made"]["seconds"])
            self.tell(f"{cell.about['factors']} on {cell.about['model']}, {cell.inputs['length']} tokens")
        elif cell.name not in self._counted:
            self._counted.add(cell.name)
            self._time(cell.work, found["made"]["seconds"])
        self.used.setdefault(self.table, {})[cell.name] = found
        return found

    def _unknown(self, what: str, count: int, length: int) -> None:
        """What depends on something that is not there yet: counted, as well as can be."""
        self._count(f"{what} {length}", count * self.passes(length))

    # ------------------------------------------------------------ searches and trainings

    def search(
        self,
        name: str,
        length: int,
        *,
        budget: int | None = None,
        num_documents: int | None = None,
        num_stop: int | None = None,
        **settings: Any,
    ) -> RescaleFactors | None:
        """A search on the base model in a run folder of its own, gone on with where it was killed."""
        budget = self.settings.budget if budget is None else budget
        num_documents = self.settings.search_documents if num_documents is None else num_documents
        num_stop = self.settings.stop_documents if num_stop is None else num_stop
        title = f"{length}-{name}-cost-{budget}-documents-{num_documents}-{num_stop}"
        path = self.out / "searches" / title
        work = budget * num_documents * self.passes(length)
        folder = RunFolder(path, [])
        if not folder.run_path.is_file():
            if self.task != "run":
                self._count(title, work)
                return None
            started = time.perf_counter()
            both = self.documents(length, num=num_documents + num_stop, split="search")
            found = len(both.documents)
            stop = both.part(num_documents, found) if found > num_documents else None
            with RunFolder.resume(path) as folder:
                result = search_factors(
                    self.base_loaded,
                    both.part(0, min(num_documents, found)),
                    target_length=length,
                    validation_documents=stop,
                    journal=folder.journal,
                    on_trial=lambda at: self.tell(f"search {title}: {at.cost:.1f} of {at.budget:g} passes"),
                    closed_forms=False,
                    budget=budget,
                    **settings,
                )
                folder.write_search(result)
            self.did(work, time.perf_counter() - started)
        factors = RescaleFactors.load(folder.factors_path)
        if factors.provenance.weights_sha256 != self.base.weights_sha256:
            raise RunFolderError(f"{path} holds a search on another model: choose another --out.")
        return factors

    def tuning(
        self,
        name: str,
        factors: RescaleFactors | None,
        settings: FinetuneSettings,
        data: MixtureSettings,
    ) -> Model | None:
        """The base model tuned with these factors, gone on with where it was killed."""
        path = self.out / "trainings" / name
        work = TRAINING_COST * settings.num_steps * settings.batch_size * self.passes(settings.length)
        if not (path / RESULT).is_file():
            if self.task != "run" or factors is None:
                self._count(name, work)
                return None
            started = time.perf_counter()
            loaded = load_model(self.settings.model)  # it is trained in place
            loaded.name = self.settings.model
            stream = Mixture(data, loaded.tokenizer, settings.length)
            finetune_model(
                loaded,
                factors,
                stream,
                settings,
                path,
                on_step=lambda at: self.tell(f"training {name}: step {at.step} of {at.num_steps}"),
            )
            self.did(work, time.perf_counter() - started)
        tuned_with = RescaleFactors.load(path / MODEL / "factors.json")
        if factors is not None and tuned_with.as_values() != factors.as_values():
            raise RunFolderError(f"{path} was trained with other factors: choose another --out.")
        return Model.tuned(name, tuned_with, path / MODEL)

    def _count(self, title: str, work: float) -> None:
        self.num_missing += 1
        if title not in self._counted:
            self._counted.add(title)
            self.work_left += work

    # ------------------------------------------------------------ time

    def passes(self, length: int) -> float:
        """A forward pass over a document, in tokens without context; attention grows with the length."""
        hidden = int(getattr(self.base_loaded.model.config.get_text_config(), "hidden_size", 4096))
        return forward_work(length, 8 * hidden)

    def did(self, work: float, seconds: float) -> None:
        self.work_left = max(0.0, self.work_left - work)
        self._time(work, seconds)

    @property
    def seconds_left(self) -> float | None:
        """A guess from what was timed; None before anything was."""
        work, seconds = self._timed
        return self.work_left * seconds / work if work else None

    def tell(self, what: str) -> None:
        """A line on stderr now and then, with a guess of the time left."""
        if time.monotonic() - self._last_said < SECONDS_BETWEEN_LINES:
            return
        self._last_said = time.monotonic()
        seconds = self.seconds_left
        left = "time left not known yet" if seconds is None else f"about {clock(seconds)} left"
        say(f"{self.table} · {what} · {left}")

    def _time(self, work: float, seconds: float) -> None:
        self._timed = self._timed[0] + work, self._timed[1] + seconds


def _summed(record: EvalRecord) -> dict[str, Any]:
    """Nats and tokens of one document, and of its second half by the record's stretches."""
    assert record.nll_by_position is not None
    assert record.n == 1
    stretches = record.nll_by_position[len(record.nll_by_position) // 2 :]
    tokens = [int(at["stop"] - at["start"]) for at in stretches]
    nats = sum(at["mean_nats"] * count for at, count in zip(stretches, tokens, strict=True))
    return {
        "whole": {"nats": record.nll_sum_nats, "tokens": record.num_tokens},
        "last_half": {"nats": nats, "tokens": sum(tokens), "from": int(stretches[0]["start"])},
    }


def _nll_sum(values: dict[str, Any]) -> NllSum:
    return NllSum(nll_sum_nats=values["nats"], num_tokens=values["tokens"])
