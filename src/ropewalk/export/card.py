"""README.md of an exported folder: what it is, what it measured, how to serve it, where factors come from.

Names and notes come from files that others wrote, so everything that is shown is escaped (`markdown`).
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.evaluate.records import EvalRecord
from ropewalk.export import Dropped, EngineNote, Served
from ropewalk.export.card_results import results
from ropewalk.export.fold import Folded
from ropewalk.export.markdown import escape, one_line, table, yaml_block
from ropewalk.factors.rescale_factors import RescaleFactors

CARD = "README.md"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run says about the model that comes out of it.

    Attributes:
        base_model: the model that the run began with, as it was called.
        recipe: of a recipe's run, the recipe as JSON values.
        tuned_weights: a hash of the weights that training made; None where nothing was trained.
        run_id: of a search's run.
    """

    base_model: str
    recipe: Mapping[str, Any] | None = None
    tuned_weights: str | None = None
    run_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        title: the folder's name.
        model, revision: what was exported.
        served: the factors, with the attention factor that the model is to turn by.
        adapter: as in the manifest.
        records: measurements, see `card_results`.
        origin: the run that the model comes from, where it is known.
        is_tuned: whether the weights were trained in that run.
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
    has_runtime: bool = False
    origin: Origin | None = None
    is_tuned: bool = False

    @property
    def base_model(self) -> str:
        """What was extended."""
        return self.model if self.origin is None else self.origin.base_model


def write_card(folder: Path, card: Card) -> None:
    """Write README.md."""
    (folder / CARD).write_text(card_text(card), encoding="utf-8")


def card_text(card: Card) -> str:
    """The card as Markdown with front matter."""
    parts = [
        _front_matter(card), _heading(card), _results(card.records), _serving(card), _left_out(card.dropped),
        _provenance(card.served), _recipe(card.origin), _check(card),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(card: Card) -> str:
    lines = ["---", "library_name: transformers", "tags: [ropewalk, longrope]"]
    if HUB_NAME.fullmatch(card.base_model):
        lines.append(f"base_model: {json.dumps(card.base_model)}")
    return "\n".join([*lines, "---"])


def _heading(card: Card) -> str:
    window, target = card.served.geometry.original_length, card.served.long.target_length
    revision = f" (revision {escape(card.revision)})" if card.revision else ""
    how = {
        "pinned": "One set of rescale factors serves every length.",
        "switching": f"Up to {window} tokens turn by the short factors, longer sequences by the long ones.",
    }[card.served.mode]
    weights = _weights(card)
    if card.folded is not None:
        weights = (
            f"The query weights hold the attention factor: their turned rows are multiplied by "
            f"{card.folded.scale:.6g}, so that engines may multiply cos and sin by {card.folded.engine:.6g} "
            f"as they compute it, where the factors were made for {card.folded.ours:.6g}. Logits differ from "
            f"the original's by at most {card.folded.logit_difference:.1g} of the largest."
        )
    if card.adapter is not None and card.adapter["as"] == "merged":
        weights = f"The adapter {escape(card.adapter['name'])} is merged into its weights."
    elif card.adapter is not None:
        weights += (
            f" The folder `adapter` holds the adapter {escape(card.adapter['name'])} of "
            f"{escape(card.adapter['base'])}: load it onto this folder, not onto that base, which has no "
            f"factors."
        )
    return (
        f"# {escape(card.title)}\n\n"
        f"{escape(card.base_model)}{revision}, its context window extended from {window} to {target} tokens "
        f"by [LongRoPE](https://arxiv.org/abs/2402.13753)'s rescale factors. {how} {weights}"
    )


def _weights(card: Card) -> str:
    if card.is_tuned:
        return f"Its weights were trained from {escape(card.base_model)}, as the recipe below says."
    if card.origin is not None and card.origin.tuned_weights is not None:
        return "The export changed no weights; they are not those that the run of the recipe below trained."
    if card.origin is None and Path(card.model).exists():  # how its weights were made is not known
        return "The export changed no weights."
    return "Its weights are those of that model, unchanged."


def _results(records: Sequence[EvalRecord]) -> str:
    return "## Results\n\n" + (results(records) or "No measurements came with this export.")


def _serving(card: Card) -> str:
    rows = [[escape(note.engine), note.answer.lower(), note.what] for note in card.engines]
    served = {note.engine for note in card.engines if note.is_served}
    lines = [line for engine, line in _launch_lines(card) if engine in served]
    return (
        "## Serving\n\n"
        + table(["engine", "right", "how, or why not"], rows)
        + "\n\n```\n"
        + "\n".join(lines)
        + "\n```"
    )


def _launch_lines(card: Card) -> Iterable[tuple[str, str]]:
    name, target = shlex.quote(one_line(card.title)), card.served.long.target_length
    window = card.served.geometry.original_length
    yield "ropewalk", f"model = ropewalk.load({f'./{one_line(card.title)}'!r})  # Python"
    yield (
        "transformers",
        f"model = AutoModelForCausalLM.from_pretrained({f'./{one_line(card.title)}'!r})  # Python",
    )
    yield "vllm", f"vllm serve ./{name} --max-model-len {target}"
    if card.served.mode == "switching":
        yield "vllm", f"vllm serve ./{name} --max-model-len {window} --port 8001  # a second replica, short"
    yield "sglang", f"python -m sglang.launch_server --model-path ./{name} --context-length {target}"


def _left_out(dropped: Sequence[Dropped]) -> str:
    if not dropped:
        return ""
    lines = [
        f"- {escape(entry.what)}: {escape(entry.cost or 'its cost was not measured')}" for entry in dropped
    ]
    return "## Left out\n\nThe factor set also holds\n\n" + "\n".join(lines)


def _provenance(served: Served) -> str:
    entries = (
        {"long": served.long} if served.mode == "pinned" else {"short": served.short, "long": served.long}
    )
    return "## Where the factors come from\n\n" + "\n\n".join(
        _of_one(kind, factors) for kind, factors in entries.items()
    )


def _of_one(kind: str, factors: RescaleFactors) -> str:
    made = factors.provenance
    value = "" if made.objective_value is None else f" = {made.objective_value:.6g}"
    facts = {
        "for": f"{factors.target_length} tokens, {factors.extension_ratio:g} times the window",
        "attention factor": f"{factors.attention_factor:.10g}",
        "n-hat": factors.num_start_tokens or None,
        "made on": made.model,
        "weights": made.weights_sha256,
        "strategy": made.strategy,
        "seed": made.seed,
        "budget": made.settings.get("budget"),
        "run": made.settings.get("run_id"),
        "objective": f"{made.objective}{value}" if made.objective else None,
        "data": made.data_sha256,
        "versions": ", ".join(f"{name} {version}" for name, version in made.versions.items()) or None,
    }
    lines = [f"- {name}: {escape(fact)}" for name, fact in facts.items() if fact is not None]
    return f"The {kind} factors:\n\n" + "\n".join(lines)


def _recipe(origin: Origin | None) -> str:
    if origin is None or origin.recipe is None:
        return ""
    return (
        f"## How it was made\n\nFrom {escape(origin.base_model)}, by this recipe of `ropewalk extend`:\n\n"
        f"{yaml_block(origin.recipe)}"
    )


def _check(card: Card) -> str:
    return (
        f"## To check it\n\n```\nropewalk verify ./{shlex.quote(one_line(card.title))} --model "
        f"{shlex.quote(one_line(card.model))} --factors factors.json\n```\n\nloads this folder with the "
        f"real engine and compares frequencies, logits and perplexity with Ropewalk's. After any save by "
        f"transformers 5, `ropewalk export repair FOLDER` puts the keys back that version 4 and engines that "
        f"follow it read."
    )
