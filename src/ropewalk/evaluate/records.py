"""EvalRecord: one measured number with everything that is needed to read it."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

from ropewalk.evaluate.intervals import Difference, paired_difference
from ropewalk.evaluate.nll import NllSum
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.text.splits import Role

Mode = Literal["truncate", "sliding"]
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
        low, high: 95% interval, see `intervals`; None where n is too small for one.
        seed: of the passkeys; None where nothing is drawn.
        seconds: wall time.
        model, where: the model's name; device, dtype, attention and revision it ran with.
        mode, stride, window: how a document was read; `stride` and `window` in tokens, sliding only.
        nll_sum_nats, num_tokens: what the perplexity is made of.
        nll_by_position: mean nats of the tokens at positions `start` <= p < `stop`.
        source, data_sha256: the text, and a hash of its token ids.
        documents: the part that these documents play for a search: `search`, `stop` or `report`.
        found, by_depth: passkeys found, in all and at each depth (0 is the start of the prompt).
        by_document: nats and tokens of each document, in the order of the text.
        base_by_document: of `nll_rise`, those under the base model.
        note: what must be known to read the value, e.g. that the length is beyond the factors' own.
        run_id, strategy, search_seed, budget: of the search that the factors, or the run's folder, come from.
    """

    metric: Literal["perplexity", "passkey", "nll_rise"]
    value: float
    length: int
    factors: str
    n: int
    low: float | None
    high: float | None
    seed: int | None = None
    seconds: float
    model: str
    where: dict[str, Any] = field(default_factory=dict)
    mode: Mode | None = None
    stride: int | None = None
    window: int | None = None
    nll_sum_nats: float | None = None
    num_tokens: int | None = None
    nll_by_position: tuple[dict[str, int | float], ...] | None = None
    source: str | None = None
    data_sha256: str | None = None
    documents: Role | None = None
    found: int | None = None
    by_depth: tuple[dict[str, int | float], ...] | None = None
    by_document: tuple[NllSum, ...] | None = None
    base_by_document: tuple[NllSum, ...] | None = None
    note: str | None = None
    run_id: str | None = None
    strategy: str | None = None
    search_seed: int | None = None
    budget: int | str | None = None

    def difference(self, other: "EvalRecord") -> Difference | None:
        """How far this perplexity is from another's, ours - theirs, paired by document.

        None where the two are not of the same documents and length. There is no interval where a record has
        no sums of each document, as those of earlier versions.
        """
        alike = (self.data_sha256, self.length, self.n) == (other.data_sha256, other.length, other.n)
        if not alike or self.metric != "perplexity" or other.metric != "perplexity":
            return None
        if self.by_document is None or other.by_document is None:
            nats = math.log(self.value / other.value)
            return Difference(nats=nats, low=None, high=None, n=self.n)
        return paired_difference(self.by_document, other.by_document)

    def as_json(self) -> dict[str, Any]:
        """JSON values only; what does not apply to the metric is left out, an unknown bound is null."""
        values = dataclasses.asdict(self)
        if values["high"] == math.inf:
            values["high"] = None  # a perplexity beyond a float
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None or name in ALWAYS_WRITTEN
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "EvalRecord":
        """What `as_json` gave, in this version or an earlier one.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        record: EvalRecord = _checked(cls, values)
        return record


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

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "PasskeyAnswer":
        """What `as_json` gave.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        answer: PasskeyAnswer = _checked(cls, values)
        return answer


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: Any, values: Any) -> Any:
    # As JSON a list may become a tuple, but "5" no number.
    return _adapter(kind).validate_json(json.dumps(values), strict=True, extra="forbid")


def found_by(factors: RescaleFactors | None) -> dict[str, Any]:
    """The fields of a record that name the search which found these factors; none for other factors."""
    made = None if factors is None else factors.provenance
    if made is None or not isinstance(made.settings.get("run_id"), str):
        return {}
    return {
        "run_id": made.settings["run_id"],
        "strategy": made.strategy,
        "search_seed": made.seed,
        "budget": made.settings.get("budget"),
    }


def first_integer(text: str) -> str | None:
    """The digits of the first integer in a text."""
    match = re.search(r"\d+", text)
    return match[0] if match else None
