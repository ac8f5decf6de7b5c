"""Recipe: the settings of every package, and the stages that use them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from ropewalk.finetune.data.settings import MixtureSettings
from ropewalk.finetune.settings import FinetuneSettings
from ropewalk.models.settings import ModelSettings
from ropewalk.recipe.stages import AnyStage, FinetuneStage, Length, ReadjustStage, SearchStage, Stage
from ropewalk.search.settings import SearchSettings
from ropewalk.text.settings import TextSplit
from ropewalk.units import parse_length


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PasskeyLimit(_Strict):
    """At least this share of passkeys at a length, at the lower end of the interval."""

    length: Length = Field(description="Tokens of a prompt.")
    at_least: float = Field(gt=0, le=1, description="Share of passkeys found.")


class Accept(_Strict):
    """The limits of the result, each compared with the worse end of its interval."""

    short_nll_rise: float | None = Field(
        default=None,
        description="NLL increase on inputs of the trained window against the base model, nats per token, "
        "at most.",
    )
    passkey: tuple[PasskeyLimit, ...] = Field(default=(), description="Limits, each as below.")


class Recipe(_Strict):
    """Everything that `ropewalk extend` needs."""

    model: ModelSettings = Field(description="Which model, and how it is loaded.")
    text: TextSplit = Field(default=TextSplit(), description="Search, validation and test documents.")
    search: SearchSettings = Field(
        default=SearchSettings(), description="What all searches and readjustments share; a stage may differ."
    )
    finetune: dict[str, Any] = Field(
        default_factory=dict,
        description="What all trainings share: [its keys](fine-tuning.md#finetune); a stage may differ.",
    )
    data: MixtureSettings | None = Field(
        default=None,
        description="What trainings read: [its keys](fine-tuning.md#data); must be given with a `finetune` "
        "stage.",
    )
    stages: Annotated[tuple[AnyStage, ...], Field(min_length=1)] = Field(description="At least one.")
    accept: Accept = Field(default=Accept(), description="Limits of the result.")

    def resolved(self, window: int) -> "Recipe":
        """The same with every length in tokens, and in every stage what it takes from the sections above."""
        stages = tuple(self._resolve(stage, window) for stage in self.stages)
        passkey = tuple(
            limit.model_copy(update={"length": _tokens(limit.length, window)})
            for limit in self.accept.passkey
        )
        accept = self.accept.model_copy(update={"passkey": passkey})
        return self.model_copy(update={"stages": stages, "accept": accept})

    def as_dict(self) -> dict[str, Any]:
        """JSON values of everything that a result depends on: all but `accept`, its limits."""
        return self.model_dump(mode="json", exclude={"accept"})

    def finetune_settings(self, stage: FinetuneStage) -> FinetuneSettings:
        """The settings of a resolved stage: those of the stage replace the shared ones."""
        return FinetuneSettings.model_validate({**self.finetune, **stage.setting_values})

    def search_values(self, stage: SearchStage | ReadjustStage) -> dict[str, Any]:
        """The given settings of a stage's search: those of the stage replace the shared ones."""
        return {**self.search.given(), **stage.setting_values}

    @field_serializer("search")
    def _given(self, search: SearchSettings) -> dict[str, Any]:
        """Only the given fields, because defaults follow from these and from a stage's own keys."""
        return search.given()

    def _resolve(self, stage: Stage, window: int) -> Stage:
        changes: dict[str, Any] = {"name": stage.title}
        for field in ("length", "lengths", "perplexity", "passkey", "retrieval"):
            value = getattr(stage, field, None)
            if isinstance(value, tuple):
                changes[field] = tuple(sorted(_tokens(entry, window) for entry in value))
            elif value is not None:
                changes[field] = _tokens(value, window)
        if isinstance(stage, (SearchStage, ReadjustStage)):
            changes |= self.search_values(stage)
            # How many documents a readjustment follows depends on their length, unless the stage says it.
            counts = () if isinstance(stage, ReadjustStage) else ("num_documents",)
            for field in (*counts, "num_validation_documents"):
                if getattr(stage, field) is None:
                    changes[field] = getattr(self.text, field)
        return type(stage).model_validate({**stage.model_dump(), **changes})


def _tokens(length: int | str, window: int) -> int:
    return parse_length(str(length), window)
