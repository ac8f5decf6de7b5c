"""Stages as data: what a recipe may ask for, in the order that it asks.

    search      factors for a length, on the model as it then is: on a tuned one relative to what it was
                tuned with (LongRoPE's second search)
    finetune    train with factors pinned
    swap        take factors that an earlier search found
    readjust    factors for short lengths
    evaluate    perplexity, passkeys and what short inputs lost
    external    write a checkpoint for another trainer, stop, and go on with what that made of it

Lengths are written as tokens (32768), in units of 1024 (32k), or of the model's window (8x).
"""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ropewalk.errors import SettingError, shown
from ropewalk.search.readjust import CEILING
from ropewalk.search.settings import SearchChoices
from ropewalk.units import LARGEST_SEED, MOST, parse_length


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
    """What every stage has.

    Attributes:
        name: of its folder, and for `factors:` and `--set stages.NAME.key`; where it is left out, the
            folder's is made from what the stage does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Any
    name: Name | None = None

    @property
    def title(self) -> str:
        """Its name, or what it does."""
        return self.name or "-".join([self.kind, *map(str, self.at_lengths[:1])])

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        """The lengths that it works at."""
        return ()


class SearchStage(Stage, SearchChoices):
    """A search; what is not said here is taken from the recipe's `search:` and `text:`."""

    kind: Literal["search"]
    length: Length
    num_documents: Annotated[int, Field(ge=1, le=MOST)] | None = None
    num_stop_documents: Annotated[int, Field(ge=0, le=MOST)] | None = None

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return (self.length,)


class ReadjustStage(Stage, SearchChoices):
    """Searches at short lengths.

    Attributes:
        ceiling: as in `readjust.readjust`.
        num_documents: by default as `text` says, and more of them at short lengths: a few short documents
            hold too little text to be followed.
    """

    kind: Literal["readjust"]
    lengths: Lengths = Field(min_length=1)
    ceiling: float = Field(default=CEILING, gt=0, le=1)
    num_documents: Annotated[int, Field(ge=1, le=MOST)] | None = None
    num_stop_documents: Annotated[int, Field(ge=0, le=MOST)] | None = None

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return self.lengths


class FinetuneStage(Stage):
    """Training; further keys are those of `FinetuneSettings`, beside the recipe's `finetune:`.

    Attributes:
        factors: the search whose factors are pinned; by default the current ones.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Literal["finetune"]
    length: Length
    num_steps: int
    factors: Name | None = None

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return (self.length,)


class SwapStage(Stage):
    """Take an earlier search's factors as the current ones; the model stays as it is."""

    kind: Literal["swap"]
    factors: Name


class ExternalStage(Stage):
    """Training elsewhere: the start checkpoint with the factors pinned in its configuration.

    Attributes:
        note: what to do with it, said where the run stops.
    """

    kind: Literal["external"]
    factors: Name | None = None
    note: str = ""


class EvaluateStage(Stage):
    """Measurements of the model as it then is, on text that no search saw.

    Attributes:
        perplexity: lengths; each reads the same documents.
        passkey: lengths, with `num_trials` prompts each.
        num_documents: as `text.num_report_documents`.
        short_rise: whether to measure what inputs of the original window lost against the base model.
        sliding_window: whether to measure the base model's window, slid over the text, beside it.
    """

    kind: Literal["evaluate"]
    perplexity: Lengths = ()
    passkey: Lengths = ()
    num_trials: int = Field(default=20, ge=1, le=MOST)
    num_documents: Annotated[int, Field(ge=1, le=MOST)] | None = None
    short_rise: bool = True
    sliding_window: bool = False
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)

    @property
    def at_lengths(self) -> tuple[int | str, ...]:
        return (*self.perplexity, *self.passkey)


AnyStage: TypeAlias = Annotated[
    SearchStage | FinetuneStage | SwapStage | ReadjustStage | EvaluateStage | ExternalStage,
    Field(discriminator="kind"),
]
