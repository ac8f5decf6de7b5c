"""What an engine is asked and what it answers: the real program, in a process of its own.

`ropewalk verify` believes nobody's reading of a checkpoint, ours included: a probe, a script that imports
the engine and nothing of Ropewalk, loads what was written and answers with logits. `probes.py` runs such a
script with any Python, so that an engine may live in an environment of its own.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """Token sequences to be read, each from an empty cache, alone, at positions 0, 1, 2 ...

    Attributes:
        path: what to load: a folder, or a GGUF file.
        sequences: token ids; nothing is put before or after them.
        num_last: the logits of the last so many positions of each sequence are returned (all, if it is
            shorter).
        context: tokens that the engine is told to make room for, where it chooses its factors by that
            (n_ctx, max_model_len); None for the engine's own choice.
        dtype: what the weights are computed in, where the engine can choose.
    """

    path: str
    sequences: tuple[tuple[int, ...], ...]
    num_last: int
    context: int | None = None
    dtype: str = "float32"


@dataclass(frozen=True, kw_only=True)
class EngineAnswer:
    """What an engine computed, a list entry a sequence of the request.

    Attributes:
        engine, version: name and version, e.g. `transformers` and `4.57.6`.
        logits: float32, shape (min(num_last, tokens), vocabulary).
        nats: of each predicted token (all but the sequence's first), float64, shape (tokens - 1,).
        inv_freq: the frequencies that it turned by, float64, shape (num_pairs,), radians a token; None where
            the engine does not show them.
        attention_factors: what it multiplied cos and sin by; None where it does not show it.
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
        name: as `--engine` names it.
        install_hint: a command that installs it.
        chooses_by_context: it chooses the factors once, by `EngineRequest.context`; else by each sequence.
        context_step: it rounds a context up to a multiple of this before it chooses.
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
        """Its version.

        Raises:
            MissingEngineError: it is not installed; says how to install it.
        """
        ...

    def ask(self, request: EngineRequest) -> EngineAnswer:
        """Load the checkpoint and read the sequences.

        Raises:
            MissingEngineError: it is not installed.
            EngineError: it does not load or run the checkpoint; holds the end of what it said.
            ExportError: it was ended from outside.
        """
        ...
