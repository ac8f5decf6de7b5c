"""Stages as data: what a recipe does, in its order.

    search      factors for a length, on the current model: on a trained one relative to the factors that it
                was trained with (LongRoPE's second search)
    finetune    train with one set of factors installed
    swap        take the factors of an earlier search
    readjust    factors for short lengths
    evaluate    perplexity, retrieval, passkeys and the NLL increase on short inputs
    external    write a checkpoint for another trainer, stop, and continue with the trained one

Lengths are written as tokens (32768), in units of 1024 (32k), or of the model's window (8x).
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_serializer

from ropewalk.errors import SettingError, shown
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.search.readjust import CEILING
from ropewalk.search.settings import SearchSettings
from ropewalk.units import LARGEST_SEED, MOST, parse_length

NUM_FACTS = 4  # in each test document


def _readable(value: int | str) -> int | str:
    try:
        parse_length(str(value), original_length=4096)
    except SettingError:
        raise ValueError(
            f"{shown(value)} is no length: give tokens (32768 or 32k), or times the window (8x)"
        ) from None
    return value


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(map(str, values))) < len(values):
        raise ValueError(f"{', '.join(map(str, values))} names a length twice: leave one out")
    return values


Length: TypeAlias = Annotated[int | str, AfterValidator(_readable)]
Lengths: TypeAlias = Annotated[tuple[Length, ...], AfterValidator(_unique)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class Stage(BaseModel):
    """The keys of every stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Any
    name: Name | None = Field(
        default=None,
        description="Of its folder, and for `factors` and `--set`: small letters, digits, `.`, `_`, `-`. By "
        "default what the stage does (`search-8x`).",
    )

    @property
    def title(self) -> str:
        """Its name, or what it does."""
        return self.name or "-".join([self.kind, *map(str, self.at_lengths[:1])])

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        """The lengths of the stage."""
        return ()


class _WithSettings(Stage):
    """A stage that has the keys of a settings class too; they replace those of the section."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def setting_values(self) -> dict[str, Any]:
        """The keys of the settings class, as given."""
        return dict(self.model_extra or {})


class _SearchingStage(_WithSettings):
    num_documents: int | None = Field(default=None, ge=1, le=MOST, description="As in `text`.")
    num_validation_documents: int | None = Field(default=None, ge=0, le=MOST, description="As in `text`.")

    @property
    def settings(self) -> SearchSettings:
        """How it searches; of a resolved stage, with the values of the recipe's section.

        A recipe always replaces the scaling that the model has, since its searches are composed by
        themselves.
        """
        return SearchSettings.checked({**self.setting_values, "base": "native"})


class SearchStage(_SearchingStage):
    """A search."""

    kind: Literal["search"]
    length: Length = Field(description="The target length.")

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return (self.length,)


class ReadjustStage(_SearchingStage):
    """Searches at short lengths."""

    kind: Literal["readjust"]
    lengths: Lengths = Field(min_length=1, description="Below what the current factors reach.")
    ceiling: float = Field(
        default=CEILING,
        gt=0,
        le=1,
        description="The largest factor, as a share of the ratio that the model was extended by.",
    )
    num_documents: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="As in `text`, times what search documents need to have 16384 tokens: a few short "
        "documents have too little text.",
    )

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return self.lengths


class FinetuneStage(_WithSettings):
    """Training."""

    kind: Literal["finetune"]
    length: Length = Field(description="Tokens in a segment.")
    num_steps: int = Field(ge=1, description="Optimizer steps.")
    factors: Name | None = Field(
        default=None,
        description="The search whose factors are installed while it trains; by default the current factors.",
    )

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return (self.length,)

    @property
    def setting_values(self) -> dict[str, Any]:
        return {**super().setting_values, "length": self.length, "num_steps": self.num_steps}


class SwapStage(Stage):
    """Take an earlier search's factors as the current ones; the model stays as it is."""

    kind: Literal["swap"]
    factors: Name = Field(description="An earlier search.")


class ExternalStage(Stage):
    """Training elsewhere: the start checkpoint with the factors in its configuration."""

    kind: Literal["external"]
    factors: Name | None = Field(
        default=None,
        description="The search whose factors are installed while it trains; by default the current factors.",
    )
    note: str = Field(default="", description="Instructions for the training, shown when the run stops.")


class EvaluateStage(Stage):
    """Measurements of the current model, on text that no search read."""

    kind: Literal["evaluate"]
    perplexity: Lengths = Field(default=(), description="Lengths; all read the same documents.")
    passkey: Lengths = Field(default=(), description="Lengths.")
    num_trials: int = Field(default=20, ge=1, le=MOST, description="Passkey prompts at each length.")
    retrieval: Lengths | None = Field(
        default=None,
        description="Lengths of retrieval: questions about facts in the test documents. Each costs one more "
        "reading of these documents. By default the trained window and the longest of `perplexity`, where "
        "the facts fit; `[]` is none.",
    )
    retrieval_settings: RetrievalSettings | None = Field(
        default=None,
        description="The questions: [their keys](#retrieval_settings). By default `num_facts` is 4, "
        "`num_questions` asks for all facts of each test document once, and `seed` is that of the stage.",
    )
    num_documents: int | None = Field(
        default=None, ge=1, le=MOST, description="As `text.num_test_documents`."
    )
    base_model: bool = Field(
        default=True,
        description="Measure the perplexity of the base model at the same lengths, which takes long far "
        "beyond its window, and its answers about facts at those that it reads.",
    )
    short_rise: bool = Field(
        default=True,
        description="Measure the NLL increase on inputs of the trained window against the base model.",
    )
    sliding_window: bool = Field(
        default=False,
        description="Measure the base model's window, slid over the same text (stride: a quarter of it, at "
        "most 64).",
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed of passkeys and facts.")

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return (*self.perplexity, *self.passkey, *(self.retrieval or ()))

    def retrieval_lengths(self, window: int) -> tuple[int, ...]:
        """The lengths of `retrieval`, or its default, of a resolved stage.

        Args:
            window: L, tokens.
        """
        if self.retrieval is not None:
            return tuple(map(int, self.retrieval))
        longest = max(map(int, self.perplexity), default=None)
        return () if longest is None else tuple(sorted({min(window, longest), longest}))

    def questions(self, num_documents: int) -> RetrievalSettings:
        """The settings of retrieval, with the defaults of a stage that has this number of test documents.

        Raises:
            SettingError: too many facts for one text.
        """
        given = {} if self.retrieval_settings is None else self.retrieval_settings.given()
        values = {"num_facts": NUM_FACTS, "seed": self.seed, **given}
        return RetrievalSettings(**{"num_questions": values["num_facts"] * num_documents, **values})

    @field_serializer("retrieval_settings")
    def _given(self, settings: RetrievalSettings | None) -> dict[str, Any] | None:
        """Only the given fields, because the defaults are those of the stage."""
        return None if settings is None else settings.given()


AnyStage: TypeAlias = Annotated[
    SearchStage | FinetuneStage | SwapStage | ReadjustStage | EvaluateStage | ExternalStage,
    Field(discriminator="kind"),
]
