"""Logits and NLL of a text, computed by an engine or by Ropewalk, and the difference of two readings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.models.model import Model
from ropewalk.verify.cases import Case
from ropewalk.verify.engines import Engine, EngineOutput, EngineRequest
from ropewalk.verify.result import Tolerances

NUM_LAST = 64  # positions whose logits are compared
CHUNK_TOKENS = 256
LOGITS_UP_TO = 4096  # tokens; rounding adds up in longer texts, and the mean NLL judges better


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One text, as an engine or Ropewalk computed it.

    Attributes:
        logits: of the last positions, shape (min(NUM_LAST, tokens), vocabulary).
        nats: NLL of each predicted token, shape (tokens - 1,).
        inv_freq: the frequencies of the rotary, shape (num_pairs,), radians per token; None if unknown.
        attention_factor: the factor of cos and sin; None if unknown.
    """

    logits: Tensor
    nats: Tensor
    inv_freq: Tensor | None = None
    attention_factor: float | None = None


@dataclass(frozen=True, kw_only=True)
class Distance:
    """The difference between two readings of one text.

    Attributes:
        logits: the largest difference, as a share of the second reading's largest logit.
        nats: the difference of the means.
    """

    logits: float
    nats: float

    @classmethod
    def between(cls, given: Reading, expected: Reading) -> "Distance":
        if given.logits.shape != expected.logits.shape:
            return cls(logits=float("inf"), nats=float("inf"))
        difference = (given.logits - expected.logits).abs().max() / expected.logits.abs().max()
        return cls(logits=float(difference), nats=abs(float(given.nats.mean() - expected.nats.mean())))

    def beyond(self, base: "Distance") -> "Distance":
        """The part that exceeds the base model's. NaN stays NaN, which no tolerance admits."""
        return Distance(logits=_positive(self.logits - base.logits), nats=_positive(self.nats - base.nats))

    def is_within(self, tolerances: Tolerances, length: int) -> bool:
        if are_logits_judged(tolerances, length) and not self.logits <= (tolerances.logits or 0.0):
            return False
        return self.nats <= tolerances.nats


def are_logits_judged(tolerances: Tolerances, length: int) -> bool:
    """Whether the logits of a text of `length` tokens are compared."""
    return tolerances.logits is not None and length <= LOGITS_UP_TO


def mean_token_distance(given: Reading, expected: Reading) -> float:
    """The mean difference of each token's NLL, in nats. Differences of opposite sign do not cancel."""
    return float((given.nats - expected.nats).abs().mean())


def read_with_engine(engine: Engine, path: str, ids: Sequence[int], cases: Sequence[Case]) -> list[Reading]:
    """Run the engine once per context, and return one reading per case.

    Raises:
        EngineError, MissingEngineError, ExportError: as `Engine.run`.
    """
    readings: dict[int, Reading] = {}
    for context in dict.fromkeys(case.context for case in cases):
        indices = [index for index, case in enumerate(cases) if case.context == context]
        request = EngineRequest(
            path=path,
            sequences=tuple(tuple(ids[: cases[index].length]) for index in indices),
            num_last=NUM_LAST,
            context=context,
        )
        output = engine.run(request)
        readings |= {index: _reading(output, place) for place, index in enumerate(indices)}
    return [readings[index] for index in range(len(cases))]


def read_with_ropewalk(loaded: Model, ids: Tensor) -> Reading:
    """Read a text with the factors that are installed.

    Args:
        ids: shape (1, tokens).
    """
    with evaluating(loaded.model):
        reader = Reader(loaded.model)
        hidden = reader.read(ids.to(loaded.model.device), keep=False)[0]
        targets, nats, last = ids[0, 1:].to(hidden.device), [], []
        for start in range(0, len(hidden), CHUNK_TOKENS):
            logits = reader.logits(hidden[start : start + CHUNK_TOKENS]).float()
            scored = targets[start : start + CHUNK_TOKENS]
            scores = logits[: len(scored)].to(torch.float64).log_softmax(dim=-1)
            nats.append(-scores.gather(1, scored.unsqueeze(1))[:, 0])
            last.append(logits[max(0, len(hidden) - NUM_LAST - start) :])
    return Reading(logits=torch.cat(last)[-NUM_LAST:].cpu(), nats=torch.cat(nats).cpu())


def _reading(output: EngineOutput, place: int) -> Reading:
    return Reading(
        logits=output.logits[place],
        nats=output.nats[place],
        inv_freq=output.inv_freq[place],
        attention_factor=output.attention_factors[place],
    )


def _positive(value: float) -> float:
    return 0.0 if value < 0 else value
