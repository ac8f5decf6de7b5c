"""The race: which strategy finds how good factors, at what cost?

    python benchmarks/search_race.py run --runs FOLDER [--only scale-8x-gradient]
    python benchmarks/search_race.py report --runs FOLDER

`run` makes every search of the race that FOLDER does not hold yet, each in a run folder of its own, so that a
killed race goes on; `--only` names those whose names begin so. `report` measures what was found on documents
that no search has seen, and writes the table, the figure and the raw numbers.

Everything is counted in forward passes over the search documents: a value costs 1, a gradient 3 (forward 1,
backward 2; 4 where activations are computed twice); a part of the documents costs its share; closed forms
that a strategy starts from, failed trials, checks on the stop set and probes count.
"""

import argparse
import json
import math
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from cost_figure import CostCurve, draw_cost
from ropewalk.cli.progress import show_progress
from ropewalk.evaluate.nll import score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model, load_model
from ropewalk.rope.schemes import NEAR_FAR, SCHEME_NAMES, scheme_factors
from ropewalk.search.journal import read_trials
from ropewalk.search.run_folder import RunFolder
from ropewalk.search.search import search_factors
from ropewalk.search.trial import Trial
from ropewalk.text.tokens import DocumentSet, token_documents
from ropewalk.text.windows import truncate

RESULTS = Path(__file__).parent / "results"
TODAY = Path("benchmarks/today-model")  # from the root, so that no machine stands in the records
WINDOW = 256
NUM_STOP, NUM_HELD_OUT = 3, 10
RELEASED = "evolution_released:ReleasedEvolution"
# Closed forms with their own parameters tuned, one after the other, on the search documents.
TUNED = {
    "yarn": {
        "attention_factor": (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3),
        "factor": (0.75, 1.25, 1.5, 2.0),  # times s
        "beta_fast": (8.0, 16.0, 64.0),
        "beta_slow": (0.5, 2.0, 4.0),
    },
    "ntk": {
        "attention_factor": (1.05, 1.1, 1.15, 1.2, 1.25, 1.3),
        "factor": (1.25, 1.5, 2.0, 3.0),
    },
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One strategy in one class of the race, with several seeds.

    Attributes:
        model, ratio: of the class: `scale` or `today`, and s.
        num_documents: search documents.
        settings: of `search_factors`.
        early_stopping: whether validation documents stop it; the paper has none.
    """

    model: str
    ratio: int
    label: str
    seeds: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    num_documents: int = 5
    early_stopping: bool = True

    @property
    def course(self) -> str:
        return f"{self.model}-{self.ratio}x"

    @property
    def target_length(self) -> int:
        return self.ratio * WINDOW

    def name(self, seed: int) -> str:
        return f"{self.course}-{self.label}-s{seed}"


def entries() -> Iterator[Entry]:
    """Every search of the race."""
    paper = {"strategy": "evolution", "budget": "paper"}
    attention_1 = {"attention_factor": "1", "start_tokens": "none", "serve_with": "ropewalk"}
    for model, num_documents in (("scale", 5), ("today", 3)):
        common: dict[str, Any] = {"model": model, "ratio": 8, "num_documents": num_documents}
        yield Entry(**common, label="evolution", seeds=(0, 1, 2), settings=paper, early_stopping=False)
        for strategy in ("gradient", "hybrid", "cma"):
            yield Entry(**common, label=strategy, seeds=(0, 1, 2, 3, 4), settings={"strategy": strategy})
        plain = {"strategy": "gradient", **attention_1}
        yield Entry(**common, label="gradient-attention-1", seeds=(0, 1, 2, 3, 4), settings=plain)
        yield Entry(
            **common,
            label="gradient-free",
            seeds=(0, 1, 2, 3, 4),
            settings={"strategy": "gradient", "serve_with": "ropewalk"},
        )
    scale: dict[str, Any] = {"model": "scale", "ratio": 8}
    searched = {**paper, "attention_factor": "search"}
    yield Entry(**scale, label="evolution-attention", seeds=(0,), settings=searched, early_stopping=False)
    released = {
        **paper,
        "strategy": RELEASED,
        "serve_with": "ropewalk",
        "space": "full",
        "attention_factor": "1",
        "start_tokens": "none",
    }
    yield Entry(**scale, label="evolution-released", seeds=(0,), settings=released, early_stopping=False)
    for ratio, num_documents in ((4, 5), (32, 1)):
        other: dict[str, Any] = {"model": "scale", "ratio": ratio, "num_documents": num_documents}
        yield Entry(**other, label="evolution", seeds=(0,), settings=paper, early_stopping=False)
        yield Entry(**other, label="gradient", seeds=(0, 1, 2), settings={"strategy": "gradient"})


# ---------------------------------------------------------------- running


@cache
def model_of(name: str, today: str) -> Model:
    return load_model("scale-model" if name == "scale" else today)


def documents_of(entry: Entry, loaded: Model) -> tuple[DocumentSet, DocumentSet]:
    """The search documents, and those of the stop set, which come after them."""
    both = token_documents(
        "stdlib",
        loaded.tokenizer,
        length=entry.target_length,
        num_documents=entry.num_documents + NUM_STOP,
        split="search",
    )
    return both.part(0, entry.num_documents), both.part(entry.num_documents, len(both.documents))


def run(entry: Entry, seed: int, runs: Path, today: str) -> None:
    path = runs / entry.name(seed)
    if (path / "run.json").exists():
        return
    print(path.name, flush=True)
    loaded = model_of(entry.model, today)
    documents, stop = documents_of(entry, loaded)
    with RunFolder.resume(path) as folder, show_progress() as progress:
        found = search_factors(
            loaded,
            documents,
            target_length=entry.target_length,
            validation_documents=stop if entry.early_stopping else None,
            journal=folder.journal,
            on_trial=progress.on_trial,
            closed_forms=False,
            seed=seed,
            **entry.settings,
        )
        folder.write_search(found)


# ---------------------------------------------------------------- reading what was run


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One search as its run folder tells it.

    Attributes:
        curve: (cost, seconds, candidate's trial) wherever the best value on all search documents fell.
        held_out: perplexity of the chosen factors on the documents of the report.
    """

    entry: Entry
    seed: int
    curve: tuple[tuple[float, float, Trial], ...]
    cost: float
    seconds: float
    value: float
    factors: RescaleFactors
    held_out: float


def improvements(trials: Sequence[Trial]) -> list[tuple[float, float, Trial]]:
    cost = seconds = 0.0
    best = math.inf
    found = []
    for trial in trials:
        cost, seconds = cost + trial.cost, seconds + trial.seconds
        if trial.is_complete and trial.kind in ("trial", "check") and (trial.value or math.inf) < best:
            best = trial.value or math.inf
            found.append((cost, seconds, trial))
    return found


def cost_to_reach(curve: Sequence[tuple[float, float, Trial]], target: float) -> float:
    """Forward passes until a value of all search documents was at most the target; infinite if none was."""
    return next((cost for cost, _, trial in curve if (trial.value or math.inf) <= target), math.inf)


def perplexity(loaded: Model, documents: DocumentSet, factors: RescaleFactors, length: int) -> float:
    windows = [window for document in documents.documents for window in truncate(document, length)]
    with loaded.using(factors):
        return score_windows(loaded.model, windows).perplexity


class HeldOut:
    """Perplexity on the report's documents, each set of factors measured once."""

    def __init__(self, today: str, memory: Path) -> None:
        self.today, self.memory = today, memory
        self.known: dict[str, float] = json.loads(memory.read_text()) if memory.exists() else {}

    def __call__(self, entry: Entry, factors: RescaleFactors, split: str = "held_out") -> float:
        values = [factors.rescale_factors, factors.num_start_tokens, factors.attention_factor]
        key = json.dumps([entry.course, split, entry.num_documents if split == "search" else 0, values])
        if key not in self.known:
            loaded = model_of(entry.model, self.today)
            self.known[key] = perplexity(loaded, self.documents(entry, split), factors, entry.target_length)
            self.memory.write_text(json.dumps(self.known))
        return self.known[key]

    def documents(self, entry: Entry, split: str) -> DocumentSet:
        loaded = model_of(entry.model, self.today)
        if split == "search":
            return documents_of(entry, loaded)[0]
        return token_documents(
            "stdlib",
            loaded.tokenizer,
            length=entry.target_length,
            num_documents=NUM_HELD_OUT,
            split="held_out",
        )


def finished(entry: Entry, seed: int, runs: Path, held_out: HeldOut) -> Finished | None:
    path = runs / entry.name(seed)
    if not (path / "run.json").exists():
        return None
    trials = read_trials(path / "journal.jsonl")
    factors = RescaleFactors.load(path / "factors.json")
    curve = improvements(trials)
    value = factors.provenance.objective_value
    assert value is not None
    return Finished(
        entry=entry,
        seed=seed,
        curve=tuple(curve),
        cost=sum(trial.cost for trial in trials),
        seconds=sum(trial.seconds for trial in trials),
        value=value,
        factors=factors,
        held_out=held_out(entry, factors),
    )


# ---------------------------------------------------------------- closed forms beside


def closed_forms(entry: Entry, held_out: HeldOut) -> list[dict[str, Any]]:
    """Each as published, and YaRN and NTK with their own parameters tuned on the search documents."""
    geometry = model_of(entry.model, held_out.today).geometry
    rows = []
    for name in [name for name in SCHEME_NAMES if name not in ("none", "dynamic-ntk", NEAR_FAR)]:
        factors = scheme_factors(name, geometry, entry.target_length)
        value = held_out(entry, factors, "search")
        rows.append({"label": name, "cost": 1, "search": value, "held_out": held_out(entry, factors)})
    return rows + [tuned(name, entry, held_out) for name in TUNED]


def tuned(name: str, entry: Entry, held_out: HeldOut) -> dict[str, Any]:
    """A scheme whose parameters were tried one after the other, each kept where it was better."""
    geometry = model_of(entry.model, held_out.today).geometry

    def factors_of(parameters: dict[str, float]) -> RescaleFactors:
        text = ",".join(f"{key}={value:g}" for key, value in parameters.items())
        return scheme_factors(f"{name}:{text}" if text else name, geometry, entry.target_length)

    best: dict[str, float] = {}
    value, cost = held_out(entry, factors_of(best), "search"), 1
    for key, choices in TUNED[name].items():
        tried = {}
        for choice in choices:
            given = choice * entry.ratio if key == "factor" else choice
            tried[given] = held_out(entry, factors_of({**best, key: given}), "search")
            cost += 1
        winner = min(tried, key=tried.__getitem__)
        if tried[winner] < value:
            best, value = {**best, key: winner}, tried[winner]
    text = ", ".join(f"{key} {number:g}" for key, number in best.items())
    return {
        "label": f"{name}, tuned ({text})",
        "cost": cost,
        "search": value,
        "held_out": held_out(entry, factors_of(best)),
    }


# ---------------------------------------------------------------- the report


def table(course: str, runs: Sequence[Finished], schemes: Sequence[dict[str, Any]]) -> list[str]:
    """A row a strategy: medians over its seeds."""
    by_label: dict[str, list[Finished]] = {}
    for entry in runs:
        by_label.setdefault(entry.entry.label, []).append(entry)
    reference = by_label.get("evolution", [])
    target = median(one.value for one in reference) if reference else math.nan
    like = by_label.get("evolution-attention", [])
    with_attention = median(one.value for one in like) if like else math.nan
    first = runs[0].entry
    lines = [
        f"## {course}: {WINDOW} to {first.target_length} tokens, {first.num_documents} search documents",
        "",
        f"Target: {target:.3f}, the median final value of the paper's evolution with attention factor 1"
        + (f"; with its attention factor searched it ends at {with_attention:.3f}." if like else "."),
        "",
        "| strategy | seeds | cost | seconds | search (min-max) | held-out (min-max) | cost to the target | "
        "evolution / ours | cost to evolution with attention factor |",
        "| --- | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for label, group in by_label.items():
        values, held = [g.value for g in group], [g.held_out for g in group]
        reached = median(cost_to_reach(g.curve, target) for g in group)
        fully = median(cost_to_reach(g.curve, with_attention) for g in group) if like else math.nan
        spent = median(cost_to_reach(one.curve, one.value) for one in reference) if reference else math.nan
        lines.append(
            f"| {label} | {len(group)} | {median(g.cost for g in group):.1f} | "
            f"{median(g.seconds for g in group):.0f} | "
            f"{median(values):.3f} ({min(values):.3f}-{max(values):.3f}) | "
            f"{median(held):.3f} ({min(held):.3f}-{max(held):.3f}) | {number(reached)} | "
            f"{number(spent / reached) if math.isfinite(reached) else '-'} | {number(fully)} |"
        )
    for row in schemes:
        cells = f"{row['search']:.3f} | {row['held_out']:.3f}"
        lines.append(f"| {row['label']} | - | {row['cost']} | - | {cells} | - | - | - |")
    return [*lines, ""]


def number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "not reached" if value == math.inf else "-"


def raw(one: Finished) -> dict[str, Any]:
    return {
        "course": one.entry.course,
        "label": one.entry.label,
        "seed": one.seed,
        "settings": one.entry.settings,
        "num_documents": one.entry.num_documents,
        "cost": one.cost,
        "seconds": one.seconds,
        "search": one.value,
        "held_out": one.held_out,
        "num_start_tokens": one.factors.num_start_tokens,
        "attention_factor": one.factors.attention_factor,
        "rescale_factors": list(one.factors.rescale_factors[0]),
        "best_after": [[cost, seconds, trial.value] for cost, seconds, trial in one.curve],
    }


def curves(runs: Sequence[Finished], held_out: HeldOut) -> tuple[list[CostCurve], list[CostCurve]]:
    """Best value so far against cost: a curve a seed, but on held-out documents the first seed's alone."""
    on_search, on_held_out = [], []
    drawn: set[str] = set()
    for one in runs:
        costs = [cost for cost, _, _ in one.curve]
        on_search.append(
            CostCurve(
                label=one.entry.label, cost=costs, value=[trial.value or math.nan for *_, trial in one.curve]
            )
        )
        if one.entry.label in drawn:
            continue
        drawn.add(one.entry.label)
        points = thinned(one.curve)
        values = [held_out(one.entry, as_factors(one, trial)) for *_, trial in points]
        on_held_out.append(CostCurve(label=one.entry.label, cost=[cost for cost, *_ in points], value=values))
    return on_search, on_held_out


def thinned(curve: Sequence[tuple[float, float, Trial]]) -> list[tuple[float, float, Trial]]:
    """The last improvement within each doubling of cost: held-out values are not free."""
    by_power = {int(math.log2(max(point[0], 1.0))): point for point in curve}
    return list(by_power.values())


def as_factors(one: Finished, trial: Trial) -> RescaleFactors:
    return replace(
        one.factors,
        rescale_factors=(trial.candidate.rescale_factors,),
        num_start_tokens=trial.candidate.num_start_tokens,
        attention_factor=trial.candidate.attention_factor,
    )


def with_reference(runs: Path) -> list[str]:
    """The courses that the paper's evolution has run to its end; without it there is nothing to compare."""
    ends = [
        entry.course
        for entry in entries()
        if entry.label == "evolution"
        and any((runs / entry.name(seed) / "run.json").exists() for seed in entry.seeds)
    ]
    return list(dict.fromkeys(ends))


def report(runs_folder: Path, today: str) -> None:
    held_out = HeldOut(today, runs_folder / "held-out.json")
    courses = with_reference(runs_folder)
    asked = [(entry, seed) for entry in entries() if entry.course in courses for seed in entry.seeds]
    found = [one for entry, seed in asked if (one := finished(entry, seed, runs_folder, held_out))]
    stem = RESULTS / f"{date.today().isoformat()}-search-race"
    lines = [f"# The search race, {date.today().isoformat()}", "", f"{about()}", ""]
    schemes = {}
    for course in courses:
        runs = [one for one in found if one.entry.course == course]
        schemes[course] = closed_forms(runs[0].entry, held_out)
        lines += table(course, runs, schemes[course])
        figure = draw_cost(*curves(runs, held_out), title=f"{course}: perplexity against cost of the search")
        Path(f"{stem}-{course}.png").write_bytes(figure)
    stem.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    document = {"about": about(), "runs": [raw(one) for one in found], "closed_forms": schemes}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines))


def about() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("ropewalk", "torch", "transformers", "cma"))
    return (
        f"`python benchmarks/search_race.py run --runs FOLDER`, then `report`; {versions}; "
        f"{platform.machine()}, {torch.get_num_threads()} thread(s) a search, Python "
        f"{platform.python_version()}."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "report", "list"])
    parser.add_argument("--runs", type=Path, required=True, help="where the run folders lie")
    parser.add_argument("--only", default="", help="those whose names begin so, comma-separated")
    parser.add_argument("--today", default=str(TODAY), help="the second model")
    given = parser.parse_args(arguments)
    if given.what == "report":
        report(given.runs, given.today)
        return
    beginnings = tuple(given.only.split(","))
    for entry in entries():
        for seed in entry.seeds:
            if entry.name(seed).startswith(beginnings):
                if given.what == "list":
                    print(entry.name(seed), (given.runs / entry.name(seed) / "run.json").exists())
                else:
                    run(entry, seed, given.runs, given.today)


if __name__ == "__main__":
    main()
