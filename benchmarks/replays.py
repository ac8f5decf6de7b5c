"""Does every recorded search of the default strategy replay bit for bit with the code as it is now?

    python benchmarks/replays.py

For each journal below `results/` whose strategy is `gradient` (or `--strategy NAME`) it makes two checks:

    strategy    The strategy is built from the recorded space, seed, budget and settings. It is asked for a
                query and told the recorded trial, in order. Each query must equal the recorded one: every
                lambda, n-hat, the attention factor, the documents, whether a gradient is requested, and the
                state of the generator.
    resume      A copy of the complete journal is resumed by `SearchLoop`, without a model. It must measure
                nothing, ask for every recorded trial (also those on validation documents), and end with the
                candidate of the recorded factors file. Unconstrained candidates are the recorded ones.

What it does not show: that a model gives the recorded values and gradients. It takes these from the journal.
Searches that judge candidates from kept keys are left out, because their budget depends on what was renewed.

The journals in `AS_ONE_DOCUMENT` have `documents: [0]` where a step reads the only search document. Newer
ones have `documents: null`, because such a value is complete and may be the best. The script converts them
to the newer form; the journal itself can't be resumed, so the second check is not made.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ropewalk.errors import RunFolderError
from ropewalk.factors.geometry import RopeGeometry, TunedGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.search.budget import strategy_budget
from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.journal import Journal, read_trials
from ropewalk.search.loop import SearchLoop
from ropewalk.search.objective import Objective
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import Strategy, Task, make_strategy
from ropewalk.search.trial import Trial

RESULTS = Path(__file__).parent / "results"
DEFAULT_STRATEGY = "gradient"
AS_ONE_DOCUMENT = tuple(f"race/scale-32x-gradient-s{seed}/journal.jsonl" for seed in range(3))
Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One journal: what it says of the run, its trials, and the generator's state at each of them."""

    path: Path
    identity: Json
    environment: Json
    trials: tuple[Trial, ...]
    states: tuple[Json, ...]

    @classmethod
    def read(cls, path: Path) -> "Recorded":
        """Trials are read and checked by the product; the header and the states are plain JSON."""
        header, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return cls(
            path=path,
            # Racing is removed; a resumed journal is read without its setting.
            identity={key: value for key, value in header["identity"].items() if key != "racing"},
            environment=header["environment"],
            trials=tuple(map(_as_written_now, read_trials(path)) if is_older(path) else read_trials(path)),
            states=tuple(line["generator"] for line in lines if line["kind"] != "resumed"),
        )

    @property
    def name(self) -> str:
        """The path below `results/`."""
        return str(self.path.relative_to(RESULTS)) if self.path.is_relative_to(RESULTS) else str(self.path)

    @property
    def space(self) -> SearchSpace:
        """The recorded space."""
        given = {key: value for key, value in self.identity["space"].items() if key != "name"}
        geometry = _geometry(given.pop("geometry"))
        for name in ("start_tokens", "attention_factors", "knots"):
            given[name] = given.get(name) and tuple(given[name])
        for recorded, name in (("longer", "long_factors"), ("tuned_with", "trained_factors")):
            if recorded in given:
                given[name] = _factors(geometry, given.pop(recorded))
        return SearchSpace(geometry=geometry, **given)

    def factors(self, trial: Trial) -> RescaleFactors:
        """The factors of a trial, multiplied onto those that the model was tuned with."""
        factors, own = self.space.to_factors(trial.candidate), self.identity.get("own")
        if own is None:
            return factors
        return factors.compose(_factors(_geometry(self.identity["model"]["geometry"]), own))

    @property
    def factors_file(self) -> Path:
        """The file beside the journal, e.g. `factors-256.json` for `journal-256.jsonl`."""
        return self.path.with_name(self.path.name.replace("journal", "factors")).with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """The outcome of one journal; a difference is None where there is none.

    Attributes:
        num_asked: queries of the strategy that are equal to the recorded ones.
        is_resumed: whether the second check was made.
    """

    path: str
    strategy: str
    num_trials: int
    num_asked: int
    is_resumed: bool
    difference: str | None
    resume_difference: str | None

    def __str__(self) -> str:
        resumed = f"equal ({self.num_trials} trials)" if self.is_resumed else "not made"
        asked = f"equal ({self.num_asked} queries)"
        return f"{self.path}: strategy {self.difference or asked}; resume {self.resume_difference or resumed}"


def replay(path: Path) -> Replayed:
    """Make both checks on one journal."""
    recorded = Recorded.read(path)
    num_asked, difference = _ask_again(recorded)
    return Replayed(
        path=recorded.name,
        strategy=recorded.identity["strategy"],
        num_trials=len(recorded.trials),
        num_asked=num_asked,
        difference=difference,
        is_resumed=not is_older(path),
        resume_difference=None if is_older(path) else _resume(recorded),
    )


def is_older(path: Path) -> bool:
    """Whether a journal is one of `AS_ONE_DOCUMENT`."""
    return path.is_relative_to(RESULTS) and str(path.relative_to(RESULTS)) in AS_ONE_DOCUMENT


def _as_written_now(trial: Trial) -> Trial:
    return replace(trial, documents=None) if trial.documents == (0,) else trial


def journals(strategy: str) -> Iterator[Path]:
    """The journals below `results/` of one strategy, or of `all`, whose candidates were read in full."""
    for path in sorted(RESULTS.rglob("*journal*.jsonl")):
        with path.open(encoding="utf-8") as file:
            identity = json.loads(file.readline())["identity"]
            if strategy in ("all", identity["strategy"]) and identity.get("exact", True):
                yield path


# ---------------------------------------------------------------- the two checks


def _ask_again(recorded: Recorded) -> tuple[int, str | None]:
    """How many queries are equal, and the first difference."""
    strategy, num_asked = _Run(recorded).strategy, 0
    for trial, state in zip(recorded.trials, recorded.states, strict=True):
        if trial.kind != "trial":
            continue
        query = strategy.ask()
        if query is None:
            return num_asked, f"trial {trial.index} is not asked for"
        pairs = {
            "lambda": (query.candidate.rescale_factors, trial.candidate.rescale_factors),
            "n-hat": (query.candidate.num_start_tokens, trial.candidate.num_start_tokens),
            "attention factor": (query.candidate.attention_factor, trial.candidate.attention_factor),
            "documents": (query.documents, trial.documents),
            "gradient": (query.gradient, trial.gradient is not None or (query.gradient and not trial.value)),
            "generator": (strategy.generator_state(), state),
        }
        for name, (now, then) in pairs.items():
            if now != then:
                return num_asked, f"trial {trial.index}: {name} is {now}, recorded {then}"
        strategy.tell(trial)
        num_asked += 1
    return num_asked, None


def _resume(recorded: Recorded) -> str | None:
    """What differs when the product resumes the complete journal."""
    run = _Run(recorded)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(recorded.path, folder))
        with Journal(copy) as journal:
            try:
                journal.begin(recorded.identity, recorded.environment)
                outcome = SearchLoop(
                    run.strategy,
                    run.objective,
                    journal,
                    budget=recorded.identity["budget"],
                    max_minutes=recorded.identity["max_minutes"],
                    early_stopping=run.early_stopping,
                    unconstrained=run.unconstrained,
                ).run()
            except (RunFolderError, MeasuredError) as error:
                return str(error).replace(str(copy), recorded.path.name)
    if len(outcome.trials) != len(recorded.trials):
        return f"it asks for {len(outcome.trials)} of {len(recorded.trials)} trials"
    if not recorded.factors_file.is_file():
        return None
    then, now = RescaleFactors.load(recorded.factors_file), recorded.factors(outcome.best)
    if now.as_values() != then.as_values():
        return f"the best is trial {outcome.best.index}, which has other factors than the recorded file"
    return None


class MeasuredError(Exception):
    """A resumed search has measured something, so it did not ask for a recorded trial."""


class _Run:
    """What one recorded search is made of, without its model."""

    def __init__(self, recorded: Recorded) -> None:
        identity, space = recorded.identity, recorded.space
        self.objective = _objective(recorded, space, identity["text"]["num_documents"])
        stop_text = identity.get("stop_text")
        self.early_stopping: EarlyStopping | None = None
        if stop_text is not None:
            on_validation = _objective(recorded, space, stop_text["num_documents"])
            self.early_stopping = EarlyStopping(on_validation, self.objective, identity["budget"])
        self.unconstrained = _unconstrained(recorded.trials)
        budget = strategy_budget(
            identity["budget"], self.objective, space, self.early_stopping, self.unconstrained
        )
        task = Task(
            space=space,
            seed=identity["seed"],
            budget=budget,
            evaluation_cost=self.objective.cost,
            num_documents=self.objective.num_documents,
            gradient_cost=self.objective.gradient_cost,
        )
        self.strategy: Strategy = make_strategy(identity["strategy"], task, _settings(identity))


def _objective(recorded: Recorded, space: SearchSpace, num_documents: int) -> Objective:
    """The costs of the recorded objective; it refuses to measure."""
    costs = _costs(recorded.trials, num_documents)
    gradients = [trial for trial in recorded.trials if trial.gradient is not None]
    value_cost = sum(costs) if not gradients or gradients[0].documents is None else costs[0]
    gradient_cost = gradients[0].cost / value_cost if gradients else 3.0

    def cost_of(
        documents: Sequence[int] | None, *, gradient: bool = False, kept: bool | None = None
    ) -> float:
        read = sum(costs) if documents is None else sum(costs[index] for index in documents)
        return read * (round(gradient_cost, 9) if gradient else 1.0)

    def refuse(*_: Any, **__: Any) -> Any:
        raise MeasuredError("a trial is measured that is not in the journal")

    names = {name for trial in recorded.trials for name in trial.parts} or {"perplexity"}  # early journals
    return cast(
        Objective,
        SimpleNamespace(
            costs=costs, full_costs=costs, kept_costs=costs, from_kept=False, cost=sum(costs),
            num_documents=num_documents, space=space, cost_of=cost_of, measure=refuse,
            gradient_cost=round(gradient_cost, 9), terms=[SimpleNamespace(name=name) for name in names],
        ),
    )  # fmt: skip


def _unconstrained(trials: Sequence[Trial]) -> UnconstrainedCandidates | None:
    """The recorded ones: most of these journals tried attention factors too, which are no constraint now."""
    recorded = [trial.candidate for trial in trials if trial.kind == "free"]
    if not recorded:
        return None
    made = SimpleNamespace(num_candidates=len(recorded), candidates=lambda best: recorded)
    return cast(UnconstrainedCandidates, made)


def _costs(trials: Sequence[Trial], num_documents: int) -> tuple[float, ...]:
    """Of each document, in forward passes over all: alike, as every recorded search reads one text length."""
    whole = next(trial.cost for trial in trials if trial.documents is None and trial.gradient is None)
    return (whole / num_documents,) * num_documents


def _settings(identity: Json) -> Json:
    given = identity["strategy_settings"]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _factors(geometry: RopeGeometry, values: Json) -> RescaleFactors:
    rows = tuple(map(tuple, values["rescale_factors"]))
    return RescaleFactors(geometry=geometry, **{**values, "rescale_factors": rows})


def _geometry(given: Json) -> RopeGeometry:
    if "rescale_factors" in given:
        return TunedGeometry(**{**given, "rescale_factors": tuple(given["rescale_factors"])})
    return RopeGeometry(**given)


def main() -> int:
    """Print one line per journal; 1 if any differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategy", default=DEFAULT_STRATEGY, help="a strategy's name, or `all`")
    parser.add_argument("--out", type=Path, help="a JSON file for the outcome of every journal")
    arguments = parser.parse_args()
    replayed = []
    for path in journals(arguments.strategy):
        one = replay(path)
        replayed.append(one)
        print(one)
    different = [one for one in replayed if one.difference or one.resume_difference]
    num_resumed = sum(one.is_resumed and one not in different for one in replayed)
    print(
        f"{len(replayed) - len(different)} of {len(replayed)} journals replay bit for bit "
        f"({sum(one.num_asked for one in replayed)} queries), {num_resumed} of them also as resumed runs"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps([vars(one) for one in replayed], indent=1) + "\n")
    return 1 if different or not replayed else 0


if __name__ == "__main__":
    sys.exit(main())
