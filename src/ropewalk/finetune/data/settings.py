"""MixtureSettings and SourceSettings: the text that a stage trains on."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from ropewalk.text.documents import DocumentKind
from ropewalk.units import LARGEST_SEED, LONGEST, MOST

Join = Literal["none", "folder", "topic"]

RETRIEVAL = "retrieval"  # the name of generated texts among the sources
MOST_TOKENS = 10**15  # of a budget; more than any corpus has


class SourceSettings(BaseModel):
    """One source of a mixture."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1, description="Name of the source in records and messages.")
    text: str = Field(
        description="File, folder, glob, data set on the hub (`owner/name`), or `stdlib` (its training part)."
    )
    weight: float = Field(
        default=1.0, gt=0, description="Share of the tokens, relative to the weights of the other sources."
    )
    min_tokens: int = Field(
        default=1,
        ge=1,
        le=LONGEST,
        description="Documents with fewer tokens are left out; joined documents count as one.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        le=LONGEST,
        description="Documents with more tokens are left out; null for no limit.",
    )
    tokens: int | None = Field(
        default=None,
        ge=1,
        le=MOST_TOKENS,
        description="Budget in tokens of segments, padding included; null repeats the source without end.",
    )
    kind: DocumentKind = Field(
        default="text",
        description="`text`, or `chat` for rows of `messages`, where only the assistant's answers count.",
    )
    join: Join = Field(
        default="none",
        description="`folder` joins the documents of a folder (of `stdlib`: of a package) into one, `topic` "
        "joins rows with the same `topic`, among 4096 rows at a time.",
    )
    skip: int = Field(
        default=0,
        ge=0,
        le=MOST,
        description="Number of first documents that are left out; a recipe sets it where it measures on the "
        "same text.",
    )

    @model_serializer(mode="wrap")
    def _without_default_skip(self, write: Any) -> Any:
        """Leave out `skip` if it is 0, so that run folders of older versions stay valid."""
        values = write(self)
        if not self.skip:
            values.pop("skip", None)
        return values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(
                f"{self.name} has min_tokens {self.min_tokens} and max_tokens {self.max_tokens}, which "
                f"leaves no document: set min_tokens below max_tokens"
            )
        if self.skip and self.join == "folder":
            raise ValueError(
                f"{self.name} sets skip and join by folder, but a joined source has no first documents: "
                f"remove one of them"
            )
        if self.kind == "chat" and self.join != "none":
            raise ValueError(f"{self.name} is a chat, and chats can't be joined: remove join")
        return self


class MixtureSettings(BaseModel):
    """The sources that a stage reads, and a share of generated retrieval texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sources: tuple[SourceSettings, ...] = Field(
        default=(), description="Sources with different names; optional only if `retrieval_share` is 1."
    )
    retrieval_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of generated retrieval texts in all tokens, in expectation; facts are hidden in "
        "text of the sources that are not chats.",
    )
    answer_weight: float = Field(
        default=8.0,
        gt=0,
        description="Weight in the loss of an answer's tokens in a generated text of 256 tokens; it grows in "
        "proportion to the length of longer texts.",
    )
    filler_weight: float = Field(
        default=0.05, ge=0, description="Weight in the loss of the other tokens of a generated text."
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=LARGEST_SEED,
        description="Seed of the order of the text and of the generated texts.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [source.name for source in self.sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two sources have the name {twice}: give each source another name")
        if RETRIEVAL in names:
            raise ValueError(
                f"a source has the name {RETRIEVAL}, which is for generated texts: choose another name"
            )
        if not names and self.retrieval_share < 1:
            raise ValueError("there is no source: add one, or set retrieval_share to 1")
        return self
