"""Model and text in, factors out: the search room's front door."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch

from ropewalk import __version__
from ropewalk.errors import SettingError
from ropewalk.factors import Base, Provenance, RescaleFactors
from ropewalk.models.load import LoadedModel
from ropewalk.search.journal import Journal
from ropewalk.search.loop import Progress, SearchOutcome, run_search
from ropewalk.search.perplexity import PerplexityObjective
from ropewalk.search.space import SearchSpace, attention_choices, start_token_choices
from ropewalk.search.strategies import PAPER_BUDGET, make_strategy
from ropewalk.search.trial import Trial
from ropewalk.text.tokens import DocumentSet

# Their versions may change a value's last bit.
PACKAGES = ("torch", "transformers", "numpy")


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search gives back.

    Attributes:
        factors: the best, ready to be installed; they say how they were found.
        factors_without_start_tokens: the best with n-hat 0, for engines without it; None if those failed.
        outcome: every trial.
        identity, environment: what was run, and with which versions on which machine, as JSON values.
        reproducible: whether the same settings and versions give the same factors again.
    """

    factors: RescaleFactors
    factors_without_start_tokens: RescaleFactors | None
    outcome: SearchOutcome
    identity: dict[str, Any]
    environment: dict[str, Any]
    reproducible: bool

    @property
    def value(self) -> float:
        """The perplexity of `factors` on the search documents."""
        assert self.outcome.best.value is not None
        return self.outcome.best.value

    @property
    def nats_without_start_tokens(self) -> float | None:
        """What n-hat 0 costs, in nats a token on the search documents."""
        plain = self.outcome.best_without_start_tokens
        return None if plain is None or plain.value is None else math.log(plain.value / self.value)

    def as_dict(self) -> dict[str, Any]:
        """The result in short, as JSON values."""
        plain = self.outcome.best_without_start_tokens
        return {
            "objective": self.factors.provenance.objective,
            "value": self.value,
            "best_trial": self.outcome.best.index,
            "num_start_tokens": self.factors.num_start_tokens,
            "attention_factor": self.factors.attention_factor,
            "value_without_start_tokens": None if plain is None else plain.value,
            "nats_without_start_tokens": self.nats_without_start_tokens,
            "num_trials": len(self.outcome.trials),
            "num_failed": self.outcome.num_failed,
            "cost": self.outcome.cost,
            "seconds": self.outcome.seconds,
            "stopped_by": self.outcome.stopped_by,
            "reproducible": self.reproducible,
        }


def search_factors(
    loaded: LoadedModel,
    documents: DocumentSet,
    *,
    target_length: int,
    strategy: str = "evolution",
    budget: int | str = "paper",
    seed: int = 0,
    attention_factor: str | float = "1",
    start_tokens: str = "search",
    base: Base = "native",
    max_minutes: float | None = None,
    strategy_settings: Mapping[str, Any] | None = None,
    journal: Journal | None = None,
    on_trial: Callable[[Progress], None] | None = None,
) -> SearchResult:
    """Search rescale factors that let a model read `target_length` tokens.

    The model is left as it was. With a journal that was begun before, the run goes on where it stood.

    Args:
        documents: of at least `target_length` tokens each.
        target_length: L', tokens.
        budget: evaluations of all documents, in forward passes; `paper` is the paper's 1344.
        attention_factor: a number, `longrope`, or `search`; see `attention_choices`.
        start_tokens: `search`, or `none` to keep n-hat 0.
        base: `native` replaces the scaling that the model carries, `as-is` multiplies onto it.
        max_minutes: another limit, which makes the result depend on the machine's speed.
        strategy_settings: of the strategy's own, where they differ from its defaults.
        journal: not begun yet; it is closed at the end.

    Raises:
        SettingError: a setting out of its range, or the target not longer than the window.
        ModelError: the model can't take factors for this target.
        EvaluationError: every candidate failed.
        RunFolderError: the journal is in use, of another run, damaged, or can't be written.
    """
    own = loaded.description.own_under(base)
    geometry = loaded.geometry if own is None else replace(own.geometry, original_length=own.target_length)
    space = SearchSpace(
        geometry=geometry,
        target_length=target_length,
        start_tokens=start_token_choices(start_tokens),
        attention_factors=attention_choices(attention_factor, geometry, target_length),
    )
    asked = make_strategy(strategy, space, seed, strategy_settings)
    objective = PerplexityObjective(loaded, documents, space, own)
    identity = {
        **_identify(loaded, documents),
        "objective": objective.name,
        "base": base,
        "space": space.as_dict(),
        "attention_factor": str(attention_factor),
        "start_tokens": start_tokens,
        "strategy": strategy,
        "strategy_settings": asdict(asked.settings),
        "seed": seed,
        "budget": number_of_evaluations(budget),
        "max_minutes": _positive_minutes(max_minutes),
    }
    environment = _environment(loaded)
    with nullcontext() if journal is None else journal:
        if journal is not None:
            journal.begin(identity, environment)
        outcome = run_search(
            asked, objective, journal, budget=identity["budget"], max_minutes=max_minutes, on_trial=on_trial
        )
    same_throughout = journal is None or len(journal.environments) == 1
    reproducible = max_minutes is None and same_throughout

    def documented(trial: Trial) -> RescaleFactors:
        provenance = _provenance(identity, environment, outcome, trial, reproducible)
        return objective.factors(trial.candidate).replace(provenance=provenance)

    plain = outcome.best_without_start_tokens
    return SearchResult(
        factors=documented(outcome.best),
        factors_without_start_tokens=None if plain is None else documented(plain),
        outcome=outcome,
        identity=identity,
        environment=environment,
        reproducible=reproducible,
    )


def number_of_evaluations(budget: int | str) -> int:
    """`paper`, or a whole number above 0.

    Raises:
        SettingError: neither of the two.
    """
    if budget == "paper":
        return PAPER_BUDGET
    text = str(budget)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise SettingError(f"The budget is {budget!r}, but must be a whole number above 0, or `paper`.")
    return int(text)


def _positive_minutes(max_minutes: float | None) -> float | None:
    if max_minutes is not None and not (max_minutes > 0 and math.isfinite(max_minutes)):
        raise SettingError(f"The limit in minutes is {max_minutes}, but must be a finite number above 0.")
    return max_minutes


def _identify(loaded: LoadedModel, documents: DocumentSet) -> dict[str, Any]:
    """The model and the text of a run; a resumed run must have the same."""
    return {
        "model": {
            "name": loaded.name,
            "revision": loaded.revision,
            "weights_sha256": loaded.weights_sha256,
            "geometry": loaded.geometry.as_dict(),
            "full_attention": loaded.full_attention,
            "where": dict(loaded.where),
        },
        "text": {
            "source": documents.source,
            "num_documents": len(documents.documents),
            "data_sha256": documents.data_sha256,
        },
    }


def _environment(loaded: LoadedModel) -> dict[str, Any]:
    """What may change the last bits of a value, and with them the way that a search goes."""
    versions = {"ropewalk": __version__, **{name: version(name) for name in PACKAGES}}
    if loaded.where.get("device") != "cpu":
        return {"versions": versions}
    return {
        "versions": versions,
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def _provenance(
    identity: dict[str, Any],
    environment: dict[str, Any],
    outcome: SearchOutcome,
    trial: Trial,
    reproducible: bool,
) -> Provenance:
    """Everything that a repetition needs, and nothing that differs between a run and its repetition."""
    model, text = identity["model"], identity["text"]
    named = {"model", "text", "objective", "base", "strategy", "seed"}
    return Provenance(
        model=model["name"],
        revision=model["revision"],
        weights_sha256=model["weights_sha256"],
        base=identity["base"],
        strategy=identity["strategy"],
        seed=identity["seed"],
        data_sha256=text["data_sha256"],
        objective=identity["objective"],
        objective_value=trial.value,
        versions=environment["versions"],
        settings={
            **{key: value for key, value in identity.items() if key not in named},
            "text": text["source"],
            "num_documents": text["num_documents"],
            "where": model["where"],
            "full_attention": model["full_attention"],
            "machine": {key: value for key, value in environment.items() if key != "versions"},
            "trial": trial.index,
            "num_trials": len(outcome.trials),
            "num_failed": outcome.num_failed,
            "cost": outcome.cost,
            "stopped_by": outcome.stopped_by,
            "reproducible": reproducible,
        },
    )
