"""What a verification finds: comparisons with their limits, and the verdict."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ropewalk.export import Served

LOGITS_UP_TO = 4096  # tokens; further on rounding adds up, and the mean of many nats judges better
NEARER = 0.9  # as far as the right factors, and it is a rival that the engine turns by; above, it is rounding
# Differences below this share of the largest logit are rounding of float32, also on a processor where they
# are exactly 0. Measured means over tokens: 0.07e-6 between ATEN_CPU_CAPABILITY=default, avx2 and avx512 with
# 1 and 2 threads (bundled model, to 2048 tokens), 0.4e-6 between transformers and ours (tiny model, 128).
ROUNDING = 32 * 2.0**-23


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much further than the base an export may be from ours.

    Attributes:
        logits: as a share of the largest logit, up to LOGITS_UP_TO tokens; None: not judged.
        nats: in the mean over the tokens of a text, at any length.
    """

    logits: float | None
    nats: float


FLOAT32 = Limits(logits=1e-3, nats=0.002)
QUANTISED = Limits(logits=None, nats=0.02)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        what: frequencies, attention factor, logits, nats, or what else was looked at.
        length: tokens; None where it is not about one text.
        found: the extra difference, or how it was found.
        base: how far engine and Ropewalk are apart on the untouched model.
        limit: the largest `found` that is right; None where `found` is a text.
        is_right: the verdict.
    """

    what: str
    is_right: bool
    found: float | str
    length: int | None = None
    base: float | None = None
    limit: float | None = None

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came of it.

    Attributes:
        engine, version: who was asked.
        served: the factors that it should have turned by.
        checks: in the order of the lengths.
    """

    engine: str
    version: str
    path: str
    served: Served
    checks: tuple[Check, ...]

    @property
    def is_right(self) -> bool:
        return bool(self.checks) and all(check.is_right for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "engine": self.engine,
            "version": self.version,
            "mode": self.served.mode,
            "is_right": self.is_right,
            "checks": [check.as_json() for check in self.checks],
        }
