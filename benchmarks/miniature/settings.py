"""How large the miniature is: everything that `benchmarks/claims.py` lets be changed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ropewalk.rope.schemes import CLOSED_FORMS
from ropewalk.search.settings import SearchSettings
from ropewalk.store import write_atomically

FILE = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes; ratios are in units of the model's window, what follows from `--run` is not among them.

    Attributes:
        model: the base model.
        search_text, report_text, training_text: sources, of three different parts.
        num_documents: of a perplexity at lengths up to `long_from`, where the text has so many.
        num_long_documents: of a longer one; below 3 there is no interval.
        long_from: the ratio above which a length is long.
        schemes: closed forms, compared with searched factors without tuning, tuned alike, and with readjusted
            ones; `none` leaves every pair as it is.
        on_top: those of the second interpolation, each of which reads every long document; `none` keeps the
            factors that the model was tuned with.
        ratios: of the untuned schemes.
        sweep_ratios, start_tokens: where n-hat is tried, and which.
        tuned_ratio, tuning_steps, tuning_batch, learning_rate: of the tunings of a table of their own.
        budget, search_documents, stop_documents: of a search.
        num_trials, num_long_trials: passkey prompts a length.
        straight_budget, straight_documents: of the search straight to the longest length.
        seed: of trainings.
    """

    model: str = "scale-model"
    search_text: str = "stdlib:search"
    report_text: str = "stdlib:held-out"
    training_text: str = "stdlib"
    num_documents: int = 20
    num_long_documents: int = 6
    long_from: int = 64
    schemes: tuple[str, ...] = CLOSED_FORMS
    on_top: tuple[str, ...] = ("none", "pi", "yarn", "mrrope-pro")
    ratios: tuple[int, ...] = (2, 4, 8)
    sweep_ratios: tuple[int, ...] = (4, 8)
    start_tokens: tuple[int, ...] = (0, 2, 4, 8, 16, 32, 64, 128, 256)
    tuned_ratio: int = 16
    tuning_steps: int = 40
    tuning_batch: int = 2
    learning_rate: float = 3e-4
    budget: int = SearchSettings().num_evaluations
    search_documents: int = 5
    stop_documents: int = 3
    num_trials: int = 20
    num_long_trials: int = 20
    straight_budget: int = 12
    straight_documents: int = 1
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, out: Path) -> None:
        """Note them where the cells lie: a report then shows what was measured, without being told again."""
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / FILE, json.dumps(self.as_dict(), indent=1).encode() + b"\n")

    @classmethod
    def choose(cls, out: Path, given: Mapping[str, Any]) -> "Settings":
        """What was given, None meaning nothing; the rest as the last `run` into that folder had it."""
        path = out / FILE
        saved = json.loads(path.read_bytes()) if path.is_file() else {}
        values: dict[str, Any] = {
            **{key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()},
            **{key: value for key, value in given.items() if value is not None},
        }
        return cls(**values)
