"""SearchSettings: everything that can be chosen about a search."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypedDict

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, model_validator

from ropewalk.errors import shown
from ropewalk.factors.base import Base
from ropewalk.settings import Settings
from ropewalk.units import ATTENTION_FACTORS, LARGEST_SEED, LONGEST, MOST

# LongRoPE (arXiv 2402.13753) iterates 40 times: a first population of 64, then 40 * (16 + 16).
PAPER_BUDGET = 64 + 40 * (16 + 16)
REFERENCE_STRATEGIES = ("evolution", "random")
# The defaults of the reference strategies, where they differ from those of the fields.
_AS_THE_PAPER = {
    "serve_with": "ropewalk",
    "space": "full",
    "attention_factor": 1.0,
    "start_tokens": "search",
    "budget": PAPER_BUDGET,
    "exact": True,
}
# A search of near-far factors begins near its closed form, so that few readings are enough.
NEAR_FAR_BUDGET = 10
# What near-far factors need: the one engine that has two rotations, without start tokens, and a strategy that
# moves both attention factors. Their candidates are read in full: keys are not kept for two rotations yet.
_NEAR_FAR: dict[str, Any] = {
    "strategy": "gradient",
    "serve_with": "ropewalk",
    "start_tokens": "none",
    "base": "native",
    "exact": True,
}
# What a search needs where documents are read in full, or where a strategy follows values alone.
LARGE_BUDGET = 27

SearchEngine = Literal["any", "transformers", "vllm", "llama.cpp", "ropewalk"]
SpaceName = Literal["full", "spline", "longrope2"]
StartTokens = Literal["search", "none"]


def _budget(value: Any) -> int:
    """A whole number of evaluations; `paper` means `PAPER_BUDGET`."""
    if value == "paper":
        return PAPER_BUDGET
    text = value.strip() if isinstance(value, str) else shown(value)
    digits = text.lstrip("0")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(MOST)) and int(digits) <= MOST):
        raise ValueError(
            f"it is {shown(value)}, but must be a whole number above 0, at most {MOST}, or `paper`"
        )
    return int(digits)


def _attention_factor(value: Any) -> Any:
    """A number within `ATTENTION_FACTORS`, or one of the two words."""
    if value in ("longrope", "search"):
        return value
    least, most = ATTENTION_FACTORS
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not least <= number <= most:
        raise ValueError(
            f"it is {shown(value)}, but must be a number from {least:g} to {most:g}, `longrope` or `search`"
        )
    return number


def _near_window(value: Any) -> Any:
    """A whole number of tokens, or `search`."""
    text = value.strip() if isinstance(value, str) else shown(value)
    if text == "search":
        return text
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LONGEST)) and int(text) <= LONGEST):
        raise ValueError(f"it is {shown(value)}, but must be a whole number of tokens from 0, or `search`")
    return int(text)


class SearchSettings(Settings):
    """How to search.

    Some defaults follow from other fields. The reference strategies (evolution, random) search as the paper
    does: every pair, n-hat from its list, attention factor 1, 1344 evaluations that read documents in full.
    Other strategies search the attention factor too, and n-hat only for `ropewalk`, the one engine that has
    it; `start_tokens: search` implies this engine. The reference strategies keep attention factor 1 for every
    engine, unless another is given. None as a value means "not given".

    Raises:
        SettingError: a value out of its range, an unknown name, or two values that contradict each other.
    """

    strategy: str = Field(
        default="gradient",
        title="NAME",
        min_length=1,
        description="gradient (descent on a spline), hybrid, cma, evolution (the paper's Algorithm 1), "
        "random, or package.module:Name.",
    )
    budget: Annotated[int | Literal["paper"], BeforeValidator(_budget)] = Field(
        default=6,
        title="N",
        description="Evaluations of all search documents, in forward passes, or paper: 1344, the default of "
        "evolution and random. Other strategies than gradient, and exact searches, have 27.",
    )
    seed: int = Field(
        default=0, ge=0, le=LARGEST_SEED, description="Seed of the generator of all random numbers."
    )
    serve_with: SearchEngine = Field(
        default="any", description="Search only factors that this engine can run; any: that every engine can."
    )
    space: SpaceName = Field(
        default="spline",
        description="full (a factor for every pair), spline (a curve through a few pairs), or longrope2.",
    )
    num_knots: int | None = Field(
        default=None, ge=2, le=MOST, description="Knots of the spline; by default 10, or as many as fit."
    )
    critical_pair: int | None = Field(
        default=None,
        ge=1,
        le=MOST,
        description="The first pair that longrope2 searches; by default an estimate.",
    )
    monotone: bool = Field(default=True, description="Whether factors never fall from pair to pair.")
    attention_factor: Annotated[float | Literal["longrope", "search"], BeforeValidator(_attention_factor)] = (
        Field(
            default="search",
            title="A",
            description="search, a number from 0.01 to 100, or longrope: sqrt(1 + ln s / ln L), which "
            "engines compute.",
        )
    )
    start_tokens: StartTokens = Field(
        default="none",
        description="Tokens at the start whose positions are not rescaled (n-hat): search tries the paper's "
        "list, none keeps 0.",
    )
    near_window: Annotated[int | Literal["search"], BeforeValidator(_near_window)] = Field(
        default=0,
        title="W",
        description="Tokens nearer than this keep the rotation of the training, and only farther ones are "
        "rescaled (near-far factors): a number, or search, which compares L/8, L/4 and L/2. 0: none.",
    )
    objective: str = Field(
        default="facts",
        title="NAME",
        min_length=1,
        description="facts (the text, and answers about facts hidden in it), perplexity (the text alone), "
        "tail (tokens beyond the window), needle (answers alone), or package.module:Name.",
    )
    answer_weight: float = Field(
        default=0.3,
        gt=0,
        le=100,
        description="Weight of a nat per token of answers in the objective facts; the text has 1.",
    )
    exact: bool = Field(
        default=False,
        description="Whether every candidate reads the documents in full, instead of being judged from keys "
        "that were kept under another candidate.",
    )
    short_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the perplexity of each document's first L tokens; the objective has 1.",
    )
    base: Base = Field(
        default="native",
        description="native: factors replace the scaling that the model has; as-is: they are multiplied onto "
        "it, but not in a recipe. Without it, a target that the model already reads is refused.",
    )
    max_minutes: float | None = Field(
        default=None,
        gt=0,
        description="Stop after this time in minutes; the result then depends on the machine.",
    )
    strategy_settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of the strategy itself, where they differ from its defaults.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _complete(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Fill in the defaults that follow from the given values; `model_fields_set` names only the given."""
        if not isinstance(values, Mapping):
            return handler(values)
        given = {name: value for name, value in values.items() if value is not None}
        settings = handler({**_following_defaults(given), **given})
        object.__setattr__(settings, "__pydantic_fields_set__", set(given))
        return settings

    @model_validator(mode="after")
    def _require_servable(self) -> Self:
        """The engine must be able to run what is searched."""
        if self.serve_with != "ropewalk" and self.start_tokens != "none":
            engine = "not every engine has an" if self.serve_with == "any" else f"{self.serve_with} has no"
            raise ValueError(
                f"start_tokens is `search`, but {engine} n-hat: leave it out, or set serve_with to ropewalk"
            )
        return self

    @model_validator(mode="after")
    def _require_near_far(self) -> Self:
        """What a search of near-far factors has not got."""
        if not self.near_window:
            return self
        for name, needed in _NEAR_FAR.items():
            given = getattr(self, name)
            if given != needed:
                raise ValueError(
                    f"near_window is {self.near_window}, and {name} {shown(given)}, but a near window needs "
                    f"{name} {shown(needed)}: leave one of the two out"
                )
        return self

    @property
    def num_evaluations(self) -> int:
        """The budget as a number."""
        return _budget(self.budget)

    @property
    def keeps_attention(self) -> bool:
        """Whether attention factor 1 only means that the reference strategies never change it."""
        return self.strategy in REFERENCE_STRATEGIES and "attention_factor" not in self.model_fields_set

    def keeping_attention(self, attention_factor: float) -> "SearchSettings":
        """The same with the attention factor of known factors, unless the caller gave another."""
        if "attention_factor" in self.model_fields_set:
            return self
        return type(self).checked({**self.given(), "attention_factor": attention_factor})

    def identity(self) -> dict[str, Any]:
        """JSON values that a resumed search must have in common, besides model, text, space and objective."""
        factor = self.attention_factor
        return {
            "strategy": self.strategy,
            "budget": self.num_evaluations,
            "seed": self.seed,
            "serve_with": self.serve_with,
            "attention_factor": factor if isinstance(factor, str) else as_text(factor),
            "start_tokens": self.start_tokens,
            **({"near_window": self.near_window} if self.near_window else {}),
            "short_weight": self.short_weight,
            **({"answer_weight": self.answer_weight} if self.objective == "facts" else {}),
            "exact": self.exact,
            "base": self.base,
            "max_minutes": self.max_minutes,
            "strategy_settings": dict(self.strategy_settings),
        }


def _following_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that depend on the given values."""
    is_reference = given.get("strategy") in REFERENCE_STRATEGIES
    defaults: dict[str, Any] = dict(_AS_THE_PAPER) if is_reference else {}
    if not is_reference and (given.get("exact") or given.get("strategy", "gradient") != "gradient"):
        defaults["budget"] = LARGE_BUDGET
    if given.get("near_window"):
        defaults |= _NEAR_FAR | {"budget": NEAR_FAR_BUDGET}
    if given.get("start_tokens") == "search":
        defaults["serve_with"] = "ropewalk"
    elif "serve_with" in given:
        defaults["start_tokens"] = "search" if given["serve_with"] == "ropewalk" else "none"
    return defaults


def as_text(number: float) -> str:
    """A number as a journal contains it: 1 and not 1.0."""
    return repr(float(number)).removesuffix(".0")


class SearchOptions(TypedDict, total=False):
    """The fields of `SearchSettings` as keyword arguments."""

    strategy: str
    budget: int | Literal["paper"]
    seed: int
    serve_with: SearchEngine
    space: SpaceName
    num_knots: int | None
    critical_pair: int | None
    monotone: bool
    attention_factor: float | Literal["longrope", "search"]
    start_tokens: StartTokens
    near_window: int | Literal["search"]
    objective: str
    answer_weight: float
    exact: bool
    short_weight: float
    base: Base
    max_minutes: float | None
    strategy_settings: dict[str, Any]
