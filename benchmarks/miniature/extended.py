"""What a finished or unfinished run of `ropewalk extend` holds, read and never written."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.recipe.run_folder import PipelineFolder
from ropewalk.recipe.schema import Recipe
from ropewalk.recipe.stage_folder import StageFolder
from ropewalk.recipe.stages import EvaluateStage, FinetuneStage, ReadjustStage, SearchStage, Stage

StageKind = TypeVar("StageKind", bound=Stage)


@dataclass(frozen=True)
class Model:
    """A model that cells may be measured on; its weights are read when the first one is.

    Attributes:
        folder: None for the base model.
    """

    label: str
    weights_sha256: str
    folder: Path | None = None

    @classmethod
    def tuned(cls, label: str, factors: RescaleFactors, folder: Path) -> "Model":
        """A tuned one: the factors beside its weights name them."""
        assert factors.provenance.weights_sha256 is not None
        return cls(label, factors.provenance.weights_sha256, folder)


@dataclass(frozen=True)
class Tuned:
    """A fine-tuning stage of the run that is done.

    Attributes:
        factors: those it was tuned with; they name its weights.
    """

    title: str
    folder: Path
    factors: RescaleFactors
    stage: FinetuneStage

    def model(self, label: str) -> Model:
        return Model.tuned(label, self.factors, self.folder)


class ExtensionRun:
    """The stages of a run by what they are for; None, or nothing, where they are not done yet.

    Raises:
        RunFolderError: no folder of such a run.
    """

    def __init__(self, path: Path) -> None:
        self._folder = PipelineFolder(path)  # not opened: nothing is locked or written
        self.recipe = _read_recipe(path, self._folder)

    @cached_property
    def tuned(self) -> list[Tuned]:
        """The fine-tuning stages that are done, in their order."""
        return [
            Tuned(
                stage.title,
                folder.model_path,
                RescaleFactors.load(folder.model_path / folder.factors_path().name),
                stage,
            )
            for stage, folder in self._done(FinetuneStage)
        ]

    @property
    def tunings(self) -> list[FinetuneStage]:
        """All fine-tuning stages, done or not."""
        return [stage for stage in self.recipe.stages if isinstance(stage, FinetuneStage)]

    @property
    def last_tuned(self) -> Tuned | None:
        """The model that the second search works on."""
        return self.tuned[-1] if len(self.tuned) == len(self.tunings) and self.tuned else None

    @cached_property
    def target_length(self) -> int:
        """The longest length that is searched for, tokens."""
        return max(int(stage.length) for stage in self.recipe.stages if isinstance(stage, SearchStage))

    @cached_property
    def tuned_length(self) -> int:
        """The length of the last tuning, tokens."""
        return int(self.tunings[-1].length)

    @cached_property
    def second(self) -> RescaleFactors | None:
        """The total factors of the search after the last tuning."""
        for stage, folder in self._done(SearchStage):
            if int(stage.length) == self.target_length:
                return RescaleFactors.load(folder.factors_path())
        return None

    @property
    def short_lengths(self) -> list[int]:
        """The lengths that are readjusted."""
        stages = [stage for stage in self.recipe.stages if isinstance(stage, ReadjustStage)]
        return [int(length) for stage in stages for length in stage.lengths]

    @cached_property
    def readjusted(self) -> FactorSet | None:
        """The second search's factors with the readjusted ones for short inputs."""
        for stage, folder in self._done(ReadjustStage):
            if self.second is not None:
                short = [RescaleFactors.load(folder.factors_path(int(length))) for length in stage.lengths]
                return FactorSet.of([*short, self.second])
        return None

    def first_search(self, length: int) -> RescaleFactors | None:
        """What was found at a length on the base model, before anything was tuned."""
        for stage, folder in self._done(SearchStage):
            if int(stage.length) == length != self.target_length:
                return RescaleFactors.load(folder.factors_path())
        return None

    def passkeys(self, length: int) -> EvalRecord | None:
        """The record with the most trials at a length, of an evaluation that is done or under way."""
        found = [
            record
            for stage, folder in self._stages(EvaluateStage)
            for record in folder.read_records()
            if (record.metric, record.length) == ("passkey", length)
        ]
        return max(found, key=lambda record: record.n, default=None)

    def perplexity(self, label: str, length: int, data_sha256: str) -> EvalRecord | None:
        """The record of these documents at a length, with what a `Reading` needs."""
        records = (record for _, folder in self._stages(EvaluateStage) for record in folder.read_records())
        wanted = ("perplexity", label, length, data_sha256)
        return next(
            (
                record
                for record in records
                if (record.metric, record.factors, record.length, record.data_sha256) == wanted
                and record.last_half_by_document is not None
            ),
            None,
        )

    def _done(self, kind: type[StageKind]) -> Iterator[tuple[StageKind, StageFolder]]:
        return ((stage, folder) for stage, folder in self._stages(kind) if folder.done() is not None)

    def _stages(self, kind: type[StageKind]) -> Iterator[tuple[StageKind, StageFolder]]:
        for index, stage in enumerate(self.recipe.stages):
            if isinstance(stage, kind):
                yield stage, self._folder.stage(index, stage.title)


def _read_recipe(path: Path, folder: PipelineFolder) -> Recipe:
    if not folder.recipe_path.is_file():
        raise RunFolderError(f"{path} is no run of `ropewalk extend`: name the folder that it was given.")
    values: dict[str, Any] = json.loads(folder.recipe_path.read_bytes())["recipe"]
    return Recipe.model_validate({**values, "stages": list(values["stages"].values())})
