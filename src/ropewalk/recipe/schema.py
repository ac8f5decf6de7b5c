"""Recipe: the rooms' settings composed, and the stages that use them."""

from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ropewalk.models.settings import ModelSettings
from ropewalk.recipe.stages import AnyStage, FinetuneStage, Length, ReadjustStage, SearchStage, Stage
from ropewalk.search.settings import SearchChoices
from ropewalk.text.splits import TextSettings
from ropewalk.units import parse_length


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PasskeyLimit(_Strict):
    """At least this share of passkeys at a length, at the interval's lower end."""

    length: Length
    at_least: float = Field(gt=0, le=1)


class Accept(_Strict):
    """What the result must hold, each judged on its interval's bad end.

    Attributes:
        short_nll_rise: nats a token that inputs of the original window may lose against the base model.
        passkey: what must be found.
    """

    short_nll_rise: float | None = None
    passkey: tuple[PasskeyLimit, ...] = ()


class Recipe(_Strict):
    """Everything that `ropewalk extend` needs.

    Attributes:
        search: what all searches share; a stage may say otherwise.
        finetune: what all trainings share, as the fields of `FinetuneSettings`.
        data: what trainings read, as the fields of `MixtureSettings`.
    """

    model: ModelSettings
    text: TextSettings = TextSettings()
    search: SearchChoices = SearchChoices()
    finetune: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] | None = None
    stages: Annotated[tuple[AnyStage, ...], Field(min_length=1)]
    accept: Accept = Accept()

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
        """JSON values of what decides how things are made; `accept` only judges them."""
        return self.model_dump(mode="json", exclude={"accept"})

    def finetune_settings(self, stage: FinetuneStage) -> Any:
        """The `FinetuneSettings` of a resolved stage."""
        return finetune_settings_class().model_validate(finetune_values(stage.model_dump(), self.finetune))

    def mixture_settings(self) -> Any:
        """The `MixtureSettings` of what is trained on."""
        return mixture_settings_class().model_validate(self.data or {})

    def _resolve(self, stage: Stage, window: int) -> Stage:
        changes: dict[str, Any] = {"name": stage.title}
        for field in ("length", "lengths", "perplexity", "passkey"):
            value = getattr(stage, field, None)
            if isinstance(value, tuple):
                changes[field] = tuple(sorted(_tokens(entry, window) for entry in value))
            elif value is not None:
                changes[field] = _tokens(value, window)
        if isinstance(stage, (SearchStage, ReadjustStage)):
            shared = {**self.search.said(), **self.text.model_dump()}
            # How many documents a readjustment follows depends on their length, unless the stage says it.
            counts = () if isinstance(stage, ReadjustStage) else ("num_documents",)
            for field in (*SearchChoices.model_fields, *counts, "num_stop_documents"):
                if getattr(stage, field) is None:
                    changes[field] = shared[field]
        return stage.model_copy(update=changes)


def finetune_settings_class() -> Any:
    """`FinetuneSettings`, imported when a recipe trains."""
    return import_module("ropewalk.finetune.settings").FinetuneSettings


def mixture_settings_class() -> Any:
    """`MixtureSettings`, imported when a recipe trains."""
    return import_module("ropewalk.finetune.data.mixture").MixtureSettings


def finetune_values(stage: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """What `FinetuneSettings` are made from: the shared ones, and over them the stage's."""
    own = {key: value for key, value in stage.items() if key not in ("kind", "name", "factors")}
    return {**shared, **own}


def _tokens(length: int | str, window: int) -> int:
    return parse_length(str(length), window)
