"""Whether an engine, given an export, computes what Ropewalk computes.

    the export         ── engine ──> logits, nats, frequencies ─┐
    MODEL + factor set ── Ropewalk ──> logits, nats ────────────┴─ difference ─┐
    the untouched MODEL ── the same engine, and Ropewalk ───────── difference ─┴─ only what is extra is judged

A comparison that nothing can fail proves nothing. So it is also computed how far the engine's answers are
from those under wrong factors (none at all, the other of the two sets, the pairs in reverse): if they would
have passed, that is a failure too. Means of long texts may agree by chance, what wrong factors lose in the
window and win beyond it, so answers must also be nearer to ours than to those, token by token.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ropewalk.errors import EngineError, SettingError
from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.export import ExportMode, Served
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.verify.comparison import FLOAT32, LOGITS_UP_TO, NEARER, ROUNDING, Check, Limits, Verification
from ropewalk.verify.engines import Engine, EngineAnswer, EngineRequest
from ropewalk.verify.export_config import check_configuration

NUM_LAST = 64
FREQUENCY_LIMIT = 1e-5  # relative: engines compute theta^(2i/d) in float32
ATTENTION_LIMIT = 1e-6
LONGEST_BY_DEFAULT = 16384
CHUNK_TOKENS = 256

Story = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be compared.

    Attributes:
        path: the export.
        base: the untouched model as the engine reads it.
        served: the factors that the engine should turn by.
        stated: the same as the export states them: with the engines' attention factor, where ours is folded
            into the weights.
    """

    path: str
    base: str
    served: Served
    stated: Served
    limits: Limits = FLOAT32

    @classmethod
    def about(
        cls,
        path: Path,
        base: str,
        factor_set: FactorSet,
        *,
        mode: ExportMode,
        folded_for: float | None = None,
        limits: Limits = FLOAT32,
    ) -> "Question":
        """From a set and how it was exported.

        Args:
            folded_for: the attention factor of engines, if ours was folded into the weights for it.
        """
        served = Served.of(factor_set, mode)
        stated = served if folded_for is None else served.with_attention_factor(folded_for)
        return cls(path=str(path), base=base, served=served, stated=stated, limits=limits)


def default_lengths(served: Served) -> list[int]:
    """A short text, the window, one token more, and long ones."""
    window, target = served.geometry.original_length, served.long.target_length
    wanted = {max(2, window // 4), window, min(window + 1, target), min(2 * window, target)}
    wanted.add(max(min(target, LONGEST_BY_DEFAULT), window + 1))
    return sorted(wanted)


def verify(
    question: Question,
    loaded: Model,
    engine: Engine,
    ids: Sequence[int],
    lengths: Sequence[int],
    on_step: Story | None = None,
) -> Verification:
    """Load an export with its engine and compare.

    Args:
        loaded: MODEL, in float32.
        ids: a text of at least the longest length.
        lengths: tokens.

    Raises:
        MissingEngineError: the engine is not installed.
        EngineError: it can't read the untouched model, so that nothing can be compared.
        ExportError: it was ended from outside.
        SettingError: a length out of range.
    """
    tell = on_step or (lambda _message: None)
    _require_lengths(lengths, question.served, len(ids))
    cases = _cases(question.served, lengths, engine)
    version = engine.version()
    # The untouched model first: an engine that can't read that either says nothing about the export.
    tell(f"{engine.name} {version} reads the untouched model")
    try:
        base_answers = _ask(engine, question.base, ids, cases)
    except EngineError as error:
        raise EngineError(
            f"{engine.name} does not read the untouched model, so nothing is known of {question.path}: "
            f"{error}"
        ) from None
    tell(f"{engine.name} {version} reads the export")
    try:
        answers = _ask(engine, question.path, ids, cases)
    except EngineError as error:
        failed = Check(what="engine", is_right=False, found=str(error))
        return _verification(engine, version, question, [failed])
    checks: list[Check] = []
    seen = _WrongSets(question)
    for case, answer, base_answer in zip(cases, answers, base_answers, strict=True):
        tell(f"Ropewalk reads {case.length} tokens")
        text = torch.tensor([list(ids[: case.length])])
        with loaded.using(case.factors):
            ours = _read(loaded, text)
        untouched = _read(loaded, text)
        base = _Distance.between(base_answer, untouched)
        checks += _compare(case, question, answer, ours, base)
        seen.look(case, answer, ours, base, loaded, text)
    return _verification(engine, version, question, checks + seen.checks())


def _verification(engine: Engine, version: str, question: Question, checks: list[Check]) -> Verification:
    if Path(question.path).is_dir():
        checks = [*checks, check_configuration(Path(question.path), question.stated)]
    return Verification(
        engine=engine.name, version=version, path=question.path, served=question.served, checks=tuple(checks)
    )


# ---------------------------------------------------------------- asking


@dataclass(frozen=True, kw_only=True)
class _Case:
    """One text.

    Attributes:
        context: what the engine is told to make room for, where it chooses by that.
        factors: what it should turn by.
        is_long: whether that is the long set.
    """

    length: int
    context: int | None
    factors: RescaleFactors
    is_long: bool

    @property
    def deciding_length(self) -> int:
        return self.context or self.length


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What one text gave, by whoever read it; nats of each predicted token."""

    logits: Tensor
    nats: Tensor
    inv_freq: Tensor | None = None
    attention_factor: float | None = None


def _cases(served: Served, lengths: Sequence[int], engine: Engine) -> list[_Case]:
    window, target = served.geometry.original_length, served.long.target_length
    short_context = window // engine.context_step * engine.context_step  # the largest that means short

    def case(length: int, context: int | None) -> _Case:
        deciding = context or length
        return _Case(
            length=length, context=context, is_long=deciding > window, factors=served.for_length(deciding)
        )

    if not engine.chooses_by_context:
        return [case(length, None) for length in lengths]
    cases = [case(length, short_context if length <= short_context else target) for length in lengths]
    if served.mode == "switching":
        # A short text in a long context turns by the long set.
        cases += [case(length, target) for length in lengths if length <= short_context][:1]
    return cases


def _ask(engine: Engine, path: str, ids: Sequence[int], cases: Sequence[_Case]) -> list[_Read]:
    """One question for each context."""
    found: dict[int, _Read] = {}
    for context in dict.fromkeys(case.context for case in cases):
        indices = [index for index, case in enumerate(cases) if case.context == context]
        request = EngineRequest(
            path=path,
            sequences=tuple(tuple(ids[: cases[index].length]) for index in indices),
            num_last=NUM_LAST,
            context=context,
        )
        answer = engine.ask(request)
        found |= {index: _read_of(answer, place) for place, index in enumerate(indices)}
    return [found[index] for index in range(len(cases))]


def _read_of(answer: EngineAnswer, place: int) -> _Read:
    return _Read(
        logits=answer.logits[place],
        nats=answer.nats[place],
        inv_freq=answer.inv_freq[place],
        attention_factor=answer.attention_factors[place],
    )


def _read(loaded: Model, text: Tensor) -> _Read:
    """What Ropewalk computes, with whatever is installed."""
    with evaluating(loaded.model):
        reader = Reader(loaded.model)
        hidden = reader.read(text.to(loaded.model.device), keep=False)[0]
        targets, nats, last = text[0, 1:].to(hidden.device), [], []
        for start in range(0, len(hidden), CHUNK_TOKENS):
            logits = reader.logits(hidden[start : start + CHUNK_TOKENS]).float()
            scored = targets[start : start + CHUNK_TOKENS]
            scores = logits[: len(scored)].to(torch.float64).log_softmax(dim=-1)
            nats.append(-scores.gather(1, scored.unsqueeze(1))[:, 0])
            last.append(logits[max(0, len(hidden) - NUM_LAST - start) :])
    return _Read(logits=torch.cat(last)[-NUM_LAST:].cpu(), nats=torch.cat(nats).cpu())


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, kw_only=True)
class _Distance:
    """How far two readings of one text are apart.

    Attributes:
        logits: largest difference, as a share of the largest logit of the second.
        nats: between the means.
    """

    logits: float
    nats: float

    @classmethod
    def between(cls, given: _Read, wanted: _Read) -> "_Distance":
        if given.logits.shape != wanted.logits.shape:
            return cls(logits=float("inf"), nats=float("inf"))
        difference = (given.logits - wanted.logits).abs().max() / wanted.logits.abs().max()
        return cls(logits=float(difference), nats=abs(float(given.nats.mean() - wanted.nats.mean())))

    def beyond(self, base: "_Distance") -> "_Distance":
        """What is extra; NaN stays NaN, which no limit admits."""
        return _Distance(logits=_positive(self.logits - base.logits), nats=_positive(self.nats - base.nats))

    def is_within(self, limits: Limits, length: int) -> bool:
        judged = limits.logits is not None and length <= LOGITS_UP_TO
        if judged and not self.logits <= (limits.logits or 0.0):
            return False
        return self.nats <= limits.nats


def _apart_by_token(given: _Read, wanted: _Read) -> float:
    """Mean difference of each token's nats: unlike one of means it does not cancel."""
    return float((given.nats - wanted.nats).abs().mean())


def _positive(value: float) -> float:
    return 0.0 if value < 0 else value


def _compare(case: _Case, question: Question, answer: _Read, ours: _Read, base: _Distance) -> list[Check]:
    limits, length = question.limits, case.length
    checks = []
    if answer.inv_freq is not None:
        checks.append(_check_frequencies(case, answer.inv_freq))
    if answer.attention_factor is not None:
        wanted = question.stated.for_length(case.deciding_length).attention_factor
        off = abs(answer.attention_factor / wanted - 1)
        checks.append(
            Check(
                what="attention factor", length=length, found=off, limit=ATTENTION_LIMIT,
                is_right=off <= ATTENTION_LIMIT,
            )
        )  # fmt: skip
    extra = _Distance.between(answer, ours).beyond(base)
    if limits.logits is not None and length <= LOGITS_UP_TO:
        checks.append(
            Check(
                what="logits", length=length, found=extra.logits, base=base.logits, limit=limits.logits,
                is_right=extra.logits <= limits.logits,
            )
        )  # fmt: skip
    checks.append(
        Check(
            what="nats a token", length=length, found=extra.nats, base=base.nats, limit=limits.nats,
            is_right=extra.nats <= limits.nats,
        )
    )  # fmt: skip
    return checks


def _check_frequencies(case: _Case, shown: Tensor) -> Check:
    """Pair by pair, relative to ours."""
    factors = case.factors
    wanted = torch.from_numpy(factors.geometry.inverse_frequencies() / factors.array()[0])
    if shown.shape != wanted.shape:
        found: float | str = f"{len(shown)} pairs, not {len(wanted)}"
        return Check(what="frequencies", length=case.length, found=found, is_right=False)
    off = float((shown / wanted - 1).abs().max())
    return Check(
        what="frequencies",
        length=case.length,
        found=off,
        limit=FREQUENCY_LIMIT,
        is_right=off <= FREQUENCY_LIMIT,
    )


class _WrongSets:
    """How far the engine is from wrong factors: each must be told from the right ones by some text."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._told: dict[str, bool] = {}

    def look(
        self,
        case: _Case,
        answer: _Read,
        ours: _Read,
        base: _Distance,
        loaded: Model,
        text: Tensor,
    ) -> None:
        """Compare one answer with each wrong set, until that is told apart."""
        # Nothing is nearer than rounding: a processor that happens to differ by 0 would notice anything.
        nearest = ROUNDING * float(ours.logits.abs().max())
        right = _apart_by_token(answer, ours)
        right = nearest if right < nearest else right
        wrong = wrong_sets(self._question.served, case.factors, is_long=case.is_long)
        for name, factors in wrong.items():
            if self._told.get(name):
                continue
            with loaded.using(factors):
                read = _read(loaded, text)
            extra = _Distance.between(answer, read).beyond(base)
            is_within = extra.is_within(self._question.limits, case.length)
            self._told[name] = not is_within or right < NEARER * _apart_by_token(answer, read)

    def checks(self) -> list[Check]:
        """A check for each wrong set."""
        return [
            Check(what=f"{name} would be noticed", is_right=told, found="yes" if told else "no")
            for name, told in self._told.items()
        ]


def wrong_sets(served: Served, right: RescaleFactors, *, is_long: bool) -> dict[str, RescaleFactors]:
    """Factors that an engine may turn by in place of the right ones; those that are alike are left out."""
    plain = tuple(1.0 for _ in right.rescale_factors[0])
    choices = {
        "no factors": right.replace(rescale_factors=(plain,), attention_factor=1.0, num_start_tokens=0),
        "the other set": served.short if is_long else served.long,
        "pairs in reverse": right.replace(rescale_factors=(right.rescale_factors[0][::-1],)),
    }
    return {name: factors for name, factors in choices.items() if turns_otherwise(factors, right)}


def turns_otherwise(one: RescaleFactors, other: RescaleFactors) -> bool:
    """Whether any token turns by another angle or grows by another factor, in the float32 of engines."""
    resolution = float(np.finfo(np.float32).eps)
    return (
        one.num_start_tokens != other.num_start_tokens
        or not np.allclose(one.array(), other.array(), rtol=resolution, atol=0)
        or not math.isclose(one.attention_factor, other.attention_factor, rel_tol=resolution)
    )


def _require_lengths(lengths: Sequence[int], served: Served, num_tokens: int) -> None:
    target = served.long.target_length
    for length in lengths:
        if not 2 <= length <= target:
            raise SettingError(
                f"A length is {length} tokens, but must be from 2 to the target of these factors, {target}."
            )
    assert max(lengths) <= num_tokens, (lengths, num_tokens)
