"""Whether a result holds what its recipe asks for: each limit judged on its interval's bad end."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ropewalk.evaluate.records import EvalRecord
from ropewalk.recipe.schema import Accept
from ropewalk.recipe.stage_runs import EXTENDED


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One limit, and whether it is held.

    Attributes:
        text: both in words, with the numbers.
    """

    limit: str
    is_held: bool
    text: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(accept: Accept, records: Sequence[EvalRecord]) -> list[Verdict]:
    """Every limit, from the last records of what it speaks of; without an interval it is not held."""
    ours = {(record.metric, record.length): record for record in records if record.factors == EXTENDED}
    verdicts = []
    if accept.short_nll_rise is not None:
        rises = [record for (metric, _), record in ours.items() if metric == "nll_rise"]
        verdicts.append(_judge_rise(accept.short_nll_rise, rises[-1] if rises else None))
    for limit in accept.passkey:
        record = ours.get(("passkey", int(limit.length)))
        verdicts.append(_judge_passkey(int(limit.length), limit.at_least, record))
    return verdicts


def _judge_rise(at_most: float, record: EvalRecord | None) -> Verdict:
    limit = f"short inputs lose at most {at_most:g} nats a token"
    if record is None or record.high is None:
        n = 0 if record is None else record.n
        text = f"{limit}: there is no interval from {n} documents, so NOT held"
        return Verdict(limit=limit, is_held=False, text=text)
    is_held = record.high <= at_most
    interval = f"95% interval {record.low:+.4f} to {record.high:+.4f}"
    found = f"{record.value:+.4f} at {record.length} tokens ({interval})"
    return Verdict(limit=limit, is_held=is_held, text=f"{limit}: {found}, so {_held(is_held)}")


def _judge_passkey(length: int, at_least: float, record: EvalRecord | None) -> Verdict:
    limit = f"at least {at_least:.0%} of passkeys are found at {length} tokens"
    if record is None or record.low is None:
        return Verdict(limit=limit, is_held=False, text=f"{limit}: not measured, so NOT held")
    is_held = record.low >= at_least
    found = f"{record.found} of {record.n} (95% interval {record.low:.0%} to {record.high:.0%})"
    return Verdict(limit=limit, is_held=is_held, text=f"{limit}: {found}, so {_held(is_held)}")


def _held(is_held: bool) -> str:
    return "held" if is_held else "NOT held"
