"""The identity of a search, which a resumed one must share, and the provenance of its factors."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from ropewalk import __version__
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.models.model import Model
from ropewalk.search.outcome import SearchOutcome
from ropewalk.search.trial import Trial
from ropewalk.store import hash_json, without_places
from ropewalk.text.tokens import DocumentSet

# Packages whose versions may change the last bits of a value.
PACKAGES = ("torch", "transformers", "numpy")


def identify(
    loaded: Model, documents: DocumentSet, validation_documents: DocumentSet | None
) -> dict[str, Any]:
    """The model and the texts of a search; a resumed search must have the same."""
    return {
        "model": identify_model(loaded),
        "text": identify_text(documents),
        "stop_text": None if validation_documents is None else identify_text(validation_documents),
    }


def identify_model(loaded: Model) -> dict[str, Any]:
    """The model of an identity, as JSON values."""
    return {
        "name": loaded.name,
        "revision": loaded.revision,
        "weights_sha256": loaded.weights_sha256,
        "geometry": loaded.geometry.as_dict(),
        "full_attention": loaded.full_attention,
        "where": dict(loaded.where),
    }


def identify_text(documents: DocumentSet) -> dict[str, Any]:
    """A text of an identity, as JSON values."""
    return {
        "source": documents.source,
        "num_documents": len(documents.documents),
        "data_sha256": documents.data_sha256,
    }


def run_id(identity: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that a run and its repetition share: a hash of weights, texts and settings.

    The place of a model or a text makes no difference.
    """
    return hash_json(without_places(identity))[:16]


def search_fields(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that name the search in whose run it was measured."""
    return {
        "run_id": run_id(identity),
        "strategy": identity["strategy"],
        "search_seed": identity["seed"],
        "budget": identity["budget"],
    }


def describe_environment(loaded: Model) -> dict[str, Any]:
    """Versions and machine, which may change the last bits of a value, and so the course of a search."""
    versions = {"ropewalk": __version__, **{name: version(name) for name in PACKAGES}}
    if loaded.where.get("device") != "cpu":
        return {"versions": versions}
    return {
        "versions": versions,
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def provenance_of(
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
            "run_id": run_id(identity),
        },
    )
