"""The state between two stages: the current model and its factors. The models in memory, one at a time."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ropewalk.errors import RunFolderError
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.settings import ModelSettings


@dataclass
class State:
    """The state of a run between two stages.

    Attributes:
        checkpoint: the folder of the current model; None for the recipe's own model.
        tuned_in: the stage that trained it. It names the model, because the place of a folder may change.
        weights_sha256: of the current model.
        factors: its factors for the longest inputs; None before the first search.
        tuned_with: the factors it was trained with, which the next search is relative to; else None.
        found: the factors that each search found, by the name of its stage.
        short: the factors that readjustment found for `factors`; empty as soon as these change.
        original: the original RoPE, if it was trained with it on short inputs (mixed windows).
    """

    weights_sha256: str
    checkpoint: Path | None = None
    tuned_in: str | None = None
    factors: RescaleFactors | None = None
    tuned_with: RescaleFactors | None = None
    found: dict[str, RescaleFactors] = field(default_factory=dict)
    short: tuple[RescaleFactors, ...] = ()
    original: RescaleFactors | None = None

    @property
    def current(self) -> RescaleFactors:
        """The factors; a checked recipe has some wherever a stage needs them."""
        assert self.factors is not None, "a stage that needs factors comes after a search"
        return self.factors

    def factor_set(self) -> FactorSet:
        """The current factors and those for shorter inputs; readjusted factors replace the original."""
        entries = {entry.target_length: entry for entry in (self.original, *self.short) if entry is not None}
        return FactorSet.of(map(self._for_these_weights, [*entries.values(), self.current]))

    def _for_these_weights(self, factors: RescaleFactors) -> RescaleFactors:
        """The same factors, with the trained weights in their provenance.

        Factors of a search before the training were found on other weights, which their settings then name.
        """
        made = factors.provenance
        if self.tuned_in is None or made.weights_sha256 == self.weights_sha256:
            return factors
        found_on = {"model": made.model, "weights_sha256": made.weights_sha256}
        settings = {**made.settings, "found_on": found_on, "tuned_in": self.tuned_in}
        return factors.replace(
            provenance=replace(made, weights_sha256=self.weights_sha256, settings=settings)
        )

    def use(self, factors: RescaleFactors) -> None:
        """Makes these the current factors, and drops those that were readjusted for others."""
        self.factors, self.short = factors, ()

    def move_to(
        self,
        checkpoint: Path,
        weights_sha256: str,
        stage: str,
        factors: RescaleFactors,
        original: RescaleFactors | None = None,
    ) -> None:
        """Makes another model the current one, trained with these factors; `original` on short inputs."""
        self.checkpoint, self.weights_sha256, self.tuned_in = checkpoint, weights_sha256, stage
        self.tuned_with, self.original = factors, original
        self.use(factors)

    def named(self, name: str | None) -> RescaleFactors:
        """The factors of an earlier search; without a name, the current ones."""
        return self.current if name is None else self.found[name]

    def as_values(self) -> dict[str, Any]:
        """Everything that the next stage's result depends on, as JSON values."""
        return {
            "weights_sha256": self.weights_sha256,
            "factors": None if self.factors is None else self.factors.as_values(),
            "tuned_with": None if self.tuned_with is None else self.tuned_with.as_values(),
            "short": {str(entry.target_length): entry.as_values() for entry in self.short},
            **({} if self.original is None else {"original": self.original.as_values()}),
        }


class Models:
    """Loads the recipe's model and its checkpoints; keeps only the last one in memory."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._loaded: tuple[tuple[Path | None, str], Model] | None = None

    def base(self) -> Model:
        """The recipe's model."""
        return self._get(None, self._settings.dtype)

    def current(self, state: State, *, dtype: str | None = None) -> Model:
        """The model of a state, whose weights are checked.

        Raises:
            RunFolderError: its weights are not those of the run.
        """
        loaded = self._get(state.checkpoint, dtype or self._settings.dtype)
        if loaded.weights_sha256 != state.weights_sha256:
            raise RunFolderError(
                f"{loaded.name} has other weights than this run recorded: restore them, or begin again in "
                f"another folder."
            )
        if state.tuned_in is not None:
            loaded.name = f"{self._settings.name}, tuned in {state.tuned_in}"
        return loaded

    def read(self, checkpoint: Path) -> Model:
        """A checkpoint, whatever its weights are."""
        return self._get(checkpoint, self._settings.dtype)

    def forget(self) -> None:
        """Drops the model in memory, e.g. because it was trained in place."""
        self._loaded = None

    def _get(self, checkpoint: Path | None, dtype: str) -> Model:
        key = (checkpoint, dtype)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees its memory before the new one is loaded
            settings = self._settings.model_copy(update={"dtype": dtype})
            self._loaded = key, settings.load(None if checkpoint is None else str(checkpoint))
        return self._loaded[1]
