"""README.md of an exported folder: the model, its measurements, how to serve it, and its factors' origin.

The text is a Jinja template, `card.md.jinja`. Every value in it is escaped (`markdown`), because names and
notes come from files of other people.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ropewalk.evaluate.records import EvalRecord
from ropewalk.export import Dropped, EngineNote, Served
from ropewalk.export.card_results import result_tables
from ropewalk.export.fold import Folded
from ropewalk.export.markdown import is_hub_name, public_name, render_markdown
from ropewalk.factors.rescale_factors import RescaleFactors

CARD = "README.md"
TEMPLATE = Path(__file__).with_name("card.md.jinja")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The run that made the model or the factors.

    Attributes:
        base_model: the model that the run started with, as the user named it.
        recipe: the recipe of a recipe's run, as JSON values.
        tuned_weights: a hash of the weights that the run trained; None if it trained none.
        run_id: the identity of a search's run.
    """

    base_model: str
    recipe: Mapping[str, Any] | None = None
    tuned_weights: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """The content of a model card.

    Attributes:
        title: the folder's name.
        model, revision: the exported model.
        served: the exported factors, with the attention factor that they were made for.
        adapter: `name`, `as` (merged, or beside the base) and `base`, as in the manifest.
        records: measurements, see `card_results`.
        origin: the run that made the model; None if unknown.
        is_tuned: whether that run trained the weights.
    """

    title: str
    model: str
    revision: str | None
    served: Served
    engines: tuple[EngineNote, ...]
    dropped: tuple[Dropped, ...] = ()
    folded: Folded | None = None
    adapter: dict[str, str] | None = None
    records: tuple[EvalRecord, ...] = ()
    origin: Origin | None = None
    is_tuned: bool = False

    @property
    def base_model(self) -> str:
        """The model whose context window is extended."""
        return self.model if self.origin is None else self.origin.base_model

    @property
    def is_local(self) -> bool:
        """Whether the exported model is a local folder, so that nothing is known about its training."""
        return Path(self.model).exists()


def write_card(folder: Path, card: Card) -> None:
    """Write README.md."""
    make_card(card).save(folder / CARD)


def make_card(card: Card) -> ModelCard:
    """The card as Markdown with front matter, ready to be saved."""
    data = ModelCardData(
        library_name="transformers",
        tags=["ropewalk", "longrope"],
        base_model=card.base_model if is_hub_name(card.base_model) else None,
    )
    text = render_markdown(
        TEMPLATE,
        card=card,
        place=f"./{card.title}",
        provenance={label: _facts(factors) for label, factors in _labelled(card.served).items()},
        served_by={note.engine for note in card.engines if note.is_served},
        tables=result_tables(card.records),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def _labelled(served: Served) -> dict[str, RescaleFactors]:
    if served.mode == "pinned":
        return {"long": served.long}
    return {"short": served.short, "long": served.long}


def _facts(factors: RescaleFactors) -> dict[str, object]:
    """What is known about how the factors were made."""
    made = factors.provenance
    value = "" if made.objective_value is None else f" = {made.objective_value:.6g}"
    facts = {
        "for": f"{factors.target_length} tokens, {factors.extension_ratio:g} times the window",
        "attention factor": f"{factors.attention_factor:.10g}",
        "start tokens": factors.num_start_tokens or None,
        "model": public_name(made.model) if made.model else None,
        "weights": made.weights_sha256,
        "strategy": made.strategy,
        "seed": made.seed,
        "budget": made.settings.get("budget"),
        "run": made.settings.get("run_id"),
        "objective": f"{made.objective}{value}" if made.objective else None,
        "data": made.data_sha256,
        "versions": ", ".join(f"{name} {version}" for name, version in made.versions.items()) or None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}
