"""Requests to an engine, and its output. An engine runs in its own process.

A probe is a script that imports the engine and nothing of Ropewalk, loads an export and returns its logits.
`probes.py` runs a probe with any Python, so that the engine may be in another environment.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """Token sequences to read, each alone, with an empty cache, at positions 0, 1, 2 ...

    Attributes:
        path: the folder or the GGUF file to load.
        sequences: token ids; the engine adds no tokens.
        num_last: the number of positions at the end of each sequence whose logits are returned (all, if the
            sequence is shorter).
        context: tokens that the engine is started for (n_ctx, max_model_len), by which it may choose its
            factors; None for the engine's default.
        dtype: the type of the computation, if the engine can choose it.
    """

    path: str
    sequences: tuple[tuple[int, ...], ...]
    num_last: int
    context: int | None = None
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class EngineOutput:
    """What an engine computed; each list has one entry per sequence of the request.

    Attributes:
        engine, version: name and version, e.g. `transformers` and `4.57.6`.
        logits: float32, shape (min(num_last, tokens), vocabulary).
        nats: NLL of each predicted token (all but the sequence's first), float64, shape (tokens - 1,).
        inv_freq: the frequencies of the rotary, float64, shape (num_pairs,), radians per token; None if the
            engine does not show them.
        attention_factors: the factor of cos and sin; None if the engine does not show it.
    """

    engine: str
    version: str
    logits: list[Tensor]
    nats: list[Tensor]
    inv_freq: list[Tensor | None]
    attention_factors: list[float | None]


class Engine(Protocol):
    """A program that serves models.

    Attributes:
        name: the value of `--engine`.
        install_hint: a command that installs it.
        chooses_by_context: whether it chooses the factors once, by `EngineRequest.context`, and not by each
            sequence.
        context_step: it first rounds a context up to a multiple of this number of tokens.
    """

    @property
    def name(self) -> str: ...

    @property
    def install_hint(self) -> str: ...

    @property
    def chooses_by_context(self) -> bool: ...

    @property
    def context_step(self) -> int: ...

    def version(self) -> str:
        """The version of the engine.

        Raises:
            MissingEngineError: it is not installed; the message says how to install it.
        """
        ...

    def run(self, request: EngineRequest) -> EngineOutput:
        """Load the checkpoint and read the sequences.

        Raises:
            MissingEngineError: it is not installed.
            EngineError: it does not load or run the checkpoint; the message has the end of its error output.
            ExportError: its process was killed.
        """
        ...
