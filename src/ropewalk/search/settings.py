"""SearchSettings: everything about a search that can be chosen, with defaults that suit one another."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ropewalk.errors import SettingError, shown
from ropewalk.factors.rescale_factors import ATTENTION_FACTORS, Base
from ropewalk.search.engine_constraints import ServeWith, require_engine
from ropewalk.search.space import SpaceName
from ropewalk.search.strategies import PAPER_BUDGET
from ropewalk.units import LARGEST_SEED, MOST

# Where these differ from the fields' own defaults: the paper's search, and the floor beside it.
_AS_THE_PAPER = {
    "serve_with": "ropewalk",
    "space": "full",
    "attention_factor": "1",
    "start_tokens": "search",
    "budget": "paper",
}
AttentionFactor = Annotated[float, Field(ge=ATTENTION_FACTORS[0], le=ATTENTION_FACTORS[1])]
REFERENCE_STRATEGIES = ("evolution", "random")


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How to search; `choose` makes one from what a user said.

    Attributes:
        strategy: one of `STRATEGY_NAMES`, or `package.module:Name`.
        budget: evaluations of all documents, in forward passes; `paper` is the paper's 1344.
        seed: 0 or above.
        serve_with: the engine that limits the space; see `search.engine_constraints`.
        space: `full`, `spline` or `longrope2`; see `search.space`.
        num_knots, critical_pair: of `spline` and of `longrope2`; None for their defaults.
        monotone: whether lambda may never fall from pair to pair.
        attention_factor: a number, `longrope`, or `search`; see `attention_choices`.
        start_tokens: `search`, or `none` to keep n-hat 0.
        objective: `perplexity`, `tail` or `needle`, or `package.module:Name`; see `search.objective_terms`.
        short_weight: of the perplexity of the first L tokens, beside the objective's own 1.
        base: `native` replaces the scaling that the model carries, `as-is` multiplies onto it.
        max_minutes: another limit, which makes the result depend on the machine's speed.
        strategy_settings: of the strategy's own, where they differ from its defaults.

    Raises:
        SettingError: a budget, seed or limit out of its range; the others are checked where they are used.
    """

    strategy: str = "gradient"
    budget: int | str = 27
    seed: int = 0
    serve_with: ServeWith = "any"
    space: str = "spline"
    num_knots: int | None = None
    critical_pair: int | None = None
    monotone: bool = True
    attention_factor: str | float = "longrope"
    start_tokens: str = "none"
    objective: str = "perplexity"
    short_weight: float = 0.0
    base: Base = "native"
    max_minutes: float | None = None
    strategy_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        number_of_evaluations(self.budget)
        require_engine(self.serve_with)
        if not 0 <= self.seed <= LARGEST_SEED:
            raise SettingError(
                f"The seed is {shown(self.seed)}, but must be 0 or above, at most {LARGEST_SEED}."
            )
        if not 0 <= self.short_weight < math.inf:
            raise SettingError(f"The short weight is {self.short_weight}, but must be 0 or above.")
        limit = self.max_minutes
        if limit is not None and not (limit > 0 and math.isfinite(limit)):
            raise SettingError(f"The limit in minutes is {limit}, but must be a finite number above 0.")

    @classmethod
    def choose(cls, **given: Any) -> "SearchSettings":
        """What was given, None meaning nothing; the rest follows from it.

        The reference strategies (evolution, random) search as the paper does: every pair, n-hat from its
        list, attention factor 1, 1344 evaluations. Others search what every engine can
        serve. Who names an engine, an attention factor or n-hat searches what that allows; the
        reference strategies keep attention factor 1 even then, unless the engine is `any` or another is
        given.

        Raises:
            SettingError: a setting out of its range, or two that contradict each other.
        """
        said = {name: value for name, value in given.items() if value is not None}
        strategy = said.get("strategy", cls.strategy)
        defaults = dict(_AS_THE_PAPER) if strategy in REFERENCE_STRATEGIES else {}
        by_hand = "attention_factor" in said or "start_tokens" in said
        if "serve_with" not in said and by_hand:
            defaults["serve_with"] = "ropewalk"
        engine = said.get("serve_with", "ropewalk" if by_hand else cls.serve_with)
        if engine != "any" and strategy not in REFERENCE_STRATEGIES:
            defaults |= {"attention_factor": "search", "start_tokens": "search"}
        if said.get("serve_with", "ropewalk") != "ropewalk":
            defaults["start_tokens"] = "none"
        if said.get("serve_with") == "any":
            defaults["attention_factor"] = "longrope"
        chosen = cls(**{**defaults, **said})
        _require_servable(chosen)
        return chosen

    @property
    def num_evaluations(self) -> int:
        return number_of_evaluations(self.budget)

    @property
    def leaves_attention_alone(self) -> bool:
        """Whether attention factor 1 only means that the reference strategies never change it."""
        is_default = str(self.attention_factor) == _AS_THE_PAPER["attention_factor"]
        return self.strategy in REFERENCE_STRATEGIES and self.serve_with != "any" and is_default

    def as_dict(self) -> dict[str, Any]:
        """JSON values: what a repetition must have alike, besides model and text."""
        values = dataclasses.asdict(self)
        for name in ("space", "num_knots", "critical_pair", "monotone", "objective"):
            del values[name]  # told by the space and the objective that they make
        return {
            **values,
            "budget": self.num_evaluations,
            "attention_factor": str(self.attention_factor),
            "strategy_settings": dict(self.strategy_settings),
        }


class SearchChoices(BaseModel):
    """What a recipe says of a search: as the fields of `SearchSettings`, None where it leaves them to it.

    The scaling that a model carries is always replaced (`base: native`): a recipe's own factors take its
    place, and are composed by the recipe's second search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str | None = None
    budget: Annotated[int, Field(ge=1, le=MOST)] | Literal["paper"] | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = None
    serve_with: ServeWith | None = None
    space: SpaceName | None = None
    num_knots: Annotated[int, Field(ge=2, le=MOST)] | None = None
    critical_pair: Annotated[int, Field(ge=1, le=MOST)] | None = None
    monotone: bool | None = None
    attention_factor: AttentionFactor | Literal["longrope", "search"] | None = None
    start_tokens: Literal["search", "none"] | None = None
    objective: str | None = None
    short_weight: Annotated[float, Field(ge=0)] | None = None
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    strategy_settings: dict[str, Any] | None = None

    def said(self) -> dict[str, Any]:
        """As `SearchSettings.choose` takes it."""
        return {name: getattr(self, name) for name in SearchChoices.model_fields}


def number_of_evaluations(budget: int | str) -> int:
    """`paper`, or a whole number above 0, at most `MOST`.

    Raises:
        SettingError: neither of the two.
    """
    if budget == "paper":
        return PAPER_BUDGET
    text = budget.strip() if isinstance(budget, str) else shown(budget)
    digits = text.lstrip("0")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(MOST)) and int(digits) <= MOST):
        raise SettingError(
            f"The budget is {shown(budget)}, but must be a whole number above 0, at most {MOST}, or `paper`."
        )
    return int(digits)


def _require_servable(settings: SearchSettings) -> None:
    """An engine's limits and what was asked by hand must not contradict each other."""
    if settings.serve_with == "ropewalk":
        return
    if settings.start_tokens != "none":
        raise SettingError(
            f"n-hat was to be searched, but {settings.serve_with} holds no n-hat: leave --start-tokens out, "
            f"or say --serve-with ropewalk."
        )
    if settings.serve_with == "any" and settings.attention_factor != "longrope":
        raise SettingError(
            f"The attention factor was to be {settings.attention_factor}, but not every engine reads one: "
            f"leave --attention-factor out, or name an engine with --serve-with."
        )
