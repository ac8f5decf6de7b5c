"""Whether a result is within the limits of its recipe: each is compared with the worse end of an interval."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ropewalk.evaluate.records import EvalRecord
from ropewalk.recipe.evaluate_stage import EXTENDED
from ropewalk.recipe.schema import Accept


@dataclass(frozen=True, kw_only=True)
class LimitResult:
    """One limit, and whether the result is within it.

    Attributes:
        text: both in words, with the numbers.
    """

    limit: str
    is_held: bool
    text: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_limits(accept: Accept, records: Sequence[EvalRecord]) -> list[LimitResult]:
    """Every limit, from the last records of its measurement; without an interval it is missed."""
    ours = {(record.metric, record.length): record for record in records if record.factors == EXTENDED}
    results = []
    if accept.short_nll_rise is not None:
        rises = [record for (metric, _), record in ours.items() if metric == "nll_increase"]
        results.append(_check_rise(accept.short_nll_rise, rises[-1] if rises else None))
    for limit in accept.passkey:
        record = ours.get(("passkey", int(limit.length)))
        results.append(_check_passkey(int(limit.length), limit.at_least, record))
    return results


def _check_rise(at_most: float, record: EvalRecord | None) -> LimitResult:
    limit = f"short inputs lose at most {at_most:g} nats per token"
    if record is None or record.high is None:
        n = 0 if record is None else record.n
        text = f"{limit}: there is no interval from {n} documents, so NOT met"
        return LimitResult(limit=limit, is_held=False, text=text)
    is_held = record.high <= at_most
    interval = f"95% interval {record.low:+.4f} to {record.high:+.4f}"
    found = f"{record.value:+.4f} at {record.length} tokens ({interval})"
    return LimitResult(limit=limit, is_held=is_held, text=f"{limit}: {found}, so {_in_words(is_held)}")


def _check_passkey(length: int, at_least: float, record: EvalRecord | None) -> LimitResult:
    limit = f"at least {at_least:.0%} of passkeys are found at {length} tokens"
    if record is None or record.low is None:
        return LimitResult(limit=limit, is_held=False, text=f"{limit}: not measured, so NOT met")
    is_held = record.low >= at_least
    found = f"{record.found} of {record.n} (95% interval {record.low:.0%} to {record.high:.0%})"
    return LimitResult(limit=limit, is_held=is_held, text=f"{limit}: {found}, so {_in_words(is_held)}")


def _in_words(is_held: bool) -> str:
    return "met" if is_held else "NOT met"
