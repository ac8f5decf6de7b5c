"""Whether a recipe's stages can follow one another: what each needs from those before it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ropewalk.errors import RopewalkError
from ropewalk.recipe.mistakes import KeyPath
from ropewalk.recipe.schema import Recipe
from ropewalk.recipe.stages import (
    EvaluateStage,
    ExternalStage,
    FinetuneStage,
    ReadjustStage,
    SearchStage,
    Stage,
    SwapStage,
)
from ropewalk.search.objectives import objective_maker
from ropewalk.search.settings import SearchSettings
from ropewalk.search.strategies import strategy_settings
from ropewalk.settings import suggest
from ropewalk.units import parse_length

Found = Iterator[tuple[KeyPath, str]]


@dataclass
class _State:
    """The lengths that the model reads at a stage, in tokens; all None if the window is unknown.

    Attributes:
        reach: the number of tokens that it reads without factors: the window, or the length of its training.
        target: of the current factors.
        targets: of each search so far, by name.
        near_far: the searches whose factors may have a near window, by name.
        is_near_far: whether the current factors may have one.
    """

    window: int | None
    reach: int | None
    has_factors: bool = False
    target: int | None = None
    targets: dict[str, int | None] = field(default_factory=dict)
    near_far: set[str] = field(default_factory=set)
    is_near_far: bool = False

    def tokens(self, length: int | str) -> int | None:
        return None if self.window is None else parse_length(str(length), self.window)


def order_mistakes(recipe: Recipe, window: int | None) -> Found:
    """Every mistake in the order of stages, and limits that nothing measures.

    Args:
        window: L, tokens; None where it is not known: lengths are then not compared.
    """
    state = _State(window=window, reach=window)
    titles: set[str] = set()
    for index, stage in enumerate(recipe.stages):
        at: KeyPath = ("stages", index)
        if stage.title in titles:
            yield at, f"two stages are named {stage.title!r}: give one of them another `name`"
        titles.add(stage.title)
        yield from _follow(state, recipe, stage, at)
    yield from _unmeasured(state, recipe)


def _follow(state: _State, recipe: Recipe, stage: Stage, at: KeyPath) -> Found:
    """What is wrong with one stage after those before it; updates `state`."""
    match stage:
        case SearchStage():
            yield from _settings(recipe, stage, at)
            length = state.tokens(stage.length)
            if length is not None and state.reach is not None and length <= state.reach:
                yield (
                    (*at, "length"),
                    f"it is {length} tokens, but the model reads {state.reach} there: give more",
                )
            state.targets[stage.title] = state.target = length
            state.has_factors, state.is_near_far = True, _has_near_window(recipe, stage)
            if state.is_near_far:
                state.near_far.add(stage.title)
        case FinetuneStage() | ExternalStage():
            yield from _take(state, stage.factors, at)
            yield from _need_plain(state, at, "a training")
            if isinstance(stage, FinetuneStage):
                yield from _within(state, (stage.length,), (*at, "length"), "train on")
            state.reach = state.target
        case SwapStage():
            yield from _take(state, stage.factors, at)
        case ReadjustStage():
            yield from _settings(recipe, stage, at)
            yield from _need_factors(state, at)
            yield from _need_plain(state, at, "a readjustment")
            for length in map(state.tokens, stage.lengths):
                if length is not None and state.target is not None and length >= state.target:
                    yield (
                        (*at, "lengths"),
                        f"{length} tokens is not below the {state.target} that the model reads there",
                    )
        case EvaluateStage():
            yield from _need_factors(state, at)
            yield from _within(state, stage.perplexity, (*at, "perplexity"), "measure")
            yield from _within(state, stage.passkey, (*at, "passkey"), "measure")
            yield from _within(state, stage.retrieval or (), (*at, "retrieval"), "measure")
            yield from _questions(stage, (*at, "retrieval_settings"))


def _settings(recipe: Recipe, stage: SearchStage | ReadjustStage, at: KeyPath) -> Found:
    """The strategy, its settings and the objective, as the search itself checks them."""
    try:
        settings = SearchSettings.checked(recipe.search_values(stage))
        strategy_settings(settings.strategy, settings.strategy_settings)
        objective_maker(settings.objective)
    except RopewalkError as error:
        yield at, str(error)


def _questions(stage: EvaluateStage, at: KeyPath) -> Found:
    """The settings of retrieval, with the defaults of the stage."""
    try:
        stage.questions(num_documents=1)
    except RopewalkError as error:
        yield at, str(error)


def _take(state: _State, name: str | None, at: KeyPath) -> Found:
    """Make an earlier search's factors the current ones; None keeps those that are."""
    if name is None:
        yield from _need_factors(state, at)
    elif name in state.targets:
        state.target, state.has_factors = state.targets[name], True
        state.is_near_far = name in state.near_far
    else:
        known = ", ".join(state.targets) or "none"
        near = suggest(name, state.targets)
        yield (*at, "factors"), f"no search before it is named {name!r}{near}: there is {known}"
        state.has_factors, state.target = True, None  # reported once


def _has_near_window(recipe: Recipe, stage: SearchStage) -> bool:
    try:
        return bool(SearchSettings.checked(recipe.search_values(stage)).near_window)
    except RopewalkError:
        return False  # reported as a mistake of the settings


def _need_plain(state: _State, at: KeyPath, purpose: str) -> Found:
    if state.is_near_far:
        yield at, f"{purpose} needs factors without a near window: leave near_window out of their search"
        state.is_near_far = False  # reported once


def _need_factors(state: _State, at: KeyPath) -> Found:
    if not state.has_factors:
        yield at, "no factors were searched before it: put a stage of kind search first"
        state.has_factors = True  # reported once


def _within(state: _State, lengths: tuple[int | str, ...], at: KeyPath, what: str) -> Found:
    for length in map(state.tokens, lengths):
        if length is not None and state.target is not None and length > state.target:
            yield (
                at,
                f"it is to {what} {length} tokens, but the factors there are for {state.target}",
            )


def _unmeasured(state: _State, recipe: Recipe) -> Found:
    """Limits that no evaluation could meet."""
    evaluations = [stage for stage in recipe.stages if isinstance(stage, EvaluateStage)]
    last = evaluations[-1] if evaluations else None
    if recipe.accept.short_nll_rise is not None and (last is None or not last.short_rise):
        yield ("accept", "short_nll_rise"), "no last stage of kind evaluate measures it (`short_rise: true`)"
    if recipe.accept.passkey and (last is None or not last.passkey):
        yield (
            ("accept", "passkey"),
            "no last stage of kind evaluate measures passkeys: add their lengths there",
        )
        return
    measured = [state.tokens(length) for length in last.passkey] if last is not None else []
    for index, limit in enumerate(recipe.accept.passkey):
        if state.tokens(limit.length) not in measured:
            message = (
                f"the last stage of kind evaluate has no passkeys at {limit.length} tokens: add it there"
            )
            yield ("accept", "passkey", index, "length"), message
