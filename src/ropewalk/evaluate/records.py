"""EvalRecord: one measured number with everything that is needed to read it."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ropewalk.factors import RescaleFactors

Mode = Literal["truncate", "sliding"]
Role = Literal["search", "stop", "report"]
FactorsAtLength = Callable[[int], RescaleFactors | None]
OnRecord = Callable[["EvalRecord"], None]

ALWAYS_WRITTEN = frozenset({"low", "high"})


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """A perplexity, a passkey rate, or what was lost against another model, at one length.

    Attributes:
        metric: `perplexity`, `passkey` (a share from 0 to 1), or `nll_rise` (nats a token).
        length: tokens of a document, or of a prompt with its answer.
        factors: the scheme's text, the file's name, or what else labels the factors.
        n: documents or trials.
        low, high: 95% interval; None where n is too small for one.
        seconds: wall time.
        model, where: the model's name; device, dtype, attention and revision it ran with.
        mode, stride, window: how a document was read; `stride` and `window` in tokens, sliding only.
        nll_sum_nats, num_tokens: what the perplexity is made of.
        nll_by_position: mean nats of the tokens at positions `start` <= p < `stop`.
        source, data_sha256: the text, and a hash of its token ids.
        documents: the part that these documents play for a search: `search`, `stop` or `report`.
        found, by_depth: passkeys found, in all and at each depth (0 is the start of the prompt).
    """

    metric: Literal["perplexity", "passkey", "nll_rise"]
    value: float
    length: int
    factors: str
    n: int
    low: float | None
    high: float | None
    seed: int
    seconds: float
    model: str
    where: dict[str, Any] = field(default_factory=dict)
    mode: Mode | None = None
    stride: int | None = None
    window: int | None = None
    nll_sum_nats: float | None = None
    num_tokens: int | None = None
    nll_by_position: tuple[dict[str, float], ...] | None = None
    source: str | None = None
    data_sha256: str | None = None
    documents: Role | None = None
    found: int | None = None
    by_depth: tuple[dict[str, float], ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """JSON values only; what does not apply to the metric is left out, an unknown bound is null."""
        values = dataclasses.asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None or name in ALWAYS_WRITTEN
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EvalRecord":
        """What `as_json` gave."""
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


@dataclass(frozen=True, kw_only=True)
class PasskeyAnswer:
    """What a model went on with after one prompt.

    Attributes:
        factors: the label of what it turned by.
        length, key, depth: of the prompt, which they make out.
        text: up to its first complete integer.
    """

    factors: str
    length: int
    key: int
    depth: float
    text: str

    @property
    def is_found(self) -> bool:
        return first_integer(self.text) == str(self.key)

    def as_json(self) -> dict[str, Any]:
        """JSON values, which make the same answer again."""
        return dataclasses.asdict(self)


def first_integer(text: str) -> str | None:
    """The digits of the first integer in a text."""
    match = re.search(r"\d+", text)
    return match[0] if match else None
