"""What one stage hands to the next: which model, turned by what; and the models in memory, one at a time."""

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
    """Where a run stands.

    Attributes:
        checkpoint: of the current model; None for the recipe's own.
        tuned_in: the stage that made it, for its name: a folder's place is no part of what a run is.
        weights_sha256: of the current model.
        factors: what it is turned by at its longest; None before the first search.
        tuned_with: what it was tuned with, and so what the next search is relative to; None if it was not.
        found: what each search found, by its stage's name.
        short: what readjustment found for `factors`; gone as soon as these change.
        original: the original RoPE, where short inputs were trained with it (mixed windows).
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
        """The factors, which a checked recipe has wherever a stage needs them."""
        assert self.factors is not None, "a stage that needs factors comes after a search"
        return self.factors

    def factor_set(self) -> FactorSet:
        """The current factors with what serves shorter inputs; what was readjusted comes first."""
        entries = {entry.target_length: entry for entry in (self.original, *self.short) if entry is not None}
        return FactorSet.of(map(self._for_these_weights, [*entries.values(), self.current]))

    def _for_these_weights(self, factors: RescaleFactors) -> RescaleFactors:
        """The same factors, with the tuned weights as those that they are for.

        Factors of a search before the tuning (those that the model was tuned with, or swapped in after it)
        were found on other weights; these are noted in their settings.
        """
        made = factors.provenance
        if self.tuned_in is None or made.weights_sha256 == self.weights_sha256:
            return factors
        found_on = {"model": made.model, "weights_sha256": made.weights_sha256}
        settings = {**made.settings, "found_on": found_on, "tuned_in": self.tuned_in}
        return factors.replace(
            provenance=replace(made, weights_sha256=self.weights_sha256, settings=settings)
        )

    def turn_by(self, factors: RescaleFactors) -> None:
        """Make these the current factors; what was readjusted for others is gone."""
        self.factors, self.short = factors, ()

    def move_to(
        self,
        checkpoint: Path,
        weights_sha256: str,
        stage: str,
        factors: RescaleFactors,
        original: RescaleFactors | None = None,
    ) -> None:
        """Another model is the current one, tuned with these factors, on short inputs with `original`."""
        self.checkpoint, self.weights_sha256, self.tuned_in = checkpoint, weights_sha256, stage
        self.tuned_with, self.original = factors, original
        self.turn_by(factors)

    def named(self, name: str | None) -> RescaleFactors:
        """An earlier search's factors; the current ones without a name."""
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
    """Loads the recipe's model and checkpoints of it; only the last one stays in memory."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._loaded: tuple[tuple[Path | None, str], Model] | None = None

    def base(self) -> Model:
        """The recipe's model."""
        return self._get(None, self._settings.dtype)

    def current(self, state: State, *, dtype: str | None = None) -> Model:
        """The model of a state, checked to be the one that the state speaks of.

        Raises:
            RunFolderError: its weights are others than the run noted.
        """
        loaded = self._get(state.checkpoint, dtype or self._settings.dtype)
        if loaded.weights_sha256 != state.weights_sha256:
            raise RunFolderError(
                f"{loaded.name} holds other weights than this run noted: put them back, or begin anew in "
                f"another folder."
            )
        if state.tuned_in is not None:
            loaded.name = f"{self._settings.name}, tuned in {state.tuned_in}"
        return loaded

    def read(self, checkpoint: Path) -> Model:
        """A checkpoint, whatever it holds."""
        return self._get(checkpoint, self._settings.dtype)

    def forget(self) -> None:
        """Drop what is in memory, e.g. because it was trained on."""
        self._loaded = None

    def _get(self, checkpoint: Path | None, dtype: str) -> Model:
        key = (checkpoint, dtype)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the old one is gone before the new one is read
            settings = self._settings.model_copy(update={"dtype": dtype})
            self._loaded = key, settings.load(None if checkpoint is None else str(checkpoint))
        return self._loaded[1]
