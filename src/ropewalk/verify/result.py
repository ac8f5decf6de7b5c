"""The result of a verification: its comparisons, with their tolerances."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.export import Served


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """The largest allowed differences from Ropewalk, beyond those of the base model.

    Attributes:
        logits: as a share of the largest logit; None if logits are not judged.
        nats: of the mean NLL over a text's tokens.
    """

    logits: float | None
    nats: float


FLOAT32 = Tolerances(logits=1e-3, nats=0.002)
QUANTISED = Tolerances(logits=None, nats=0.02)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        what: frequencies, attention factor, logits, nats per token, or another subject.
        length: tokens; None for a comparison that does not belong to one text.
        found: the difference beyond that of the base model, or a text.
        base: the difference between engine and Ropewalk for the base model.
        limit: the largest `found` that passes; None if `found` is a text.
        is_right: whether the comparison passed.
    """

    what: str
    is_right: bool
    found: float | str
    length: int | None = None
    base: float | None = None
    limit: float | None = None

    @classmethod
    def of_difference(
        cls, what: str, length: int, found: float, limit: float, *, base: float | None = None
    ) -> "Check":
        """A comparison that passes up to a limit. NaN does not pass."""
        return cls(what=what, length=length, found=found, base=base, limit=limit, is_right=found <= limit)

    @classmethod
    def of_detections(cls, is_detected: Mapping[str, bool]) -> "list[Check]":
        """One comparison per wrong factors: whether the others would detect them.

        Args:
            is_detected: by the name of the wrong factors.
        """
        return [
            cls(what=f"{name} would be noticed", is_right=detected, found="yes" if detected else "no")
            for name, detected in is_detected.items()
        ]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """All comparisons of one export in one engine.

    Attributes:
        engine, version: the program that read the export.
        served: the factors that it should use.
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
