"""The types that every exporter takes and returns.

An exporter is one function, `export_X(source, factor_set, out, *, mode, ...) -> Exported`. It writes to a
path that does not exist yet, either everything or nothing (`export.output`). Factors that the target can't
store raise an `ExportError`, or are dropped on request and then listed in `Exported.dropped`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ropewalk.errors import ExportError
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.transformers4_config import keep_keys, rewrite_keys
from ropewalk.rope.attention_factor import longrope_attention_factor

__all__ = [
    "EXPORT_MODES",
    "Dropped",
    "EngineNote",
    "ExportMode",
    "ExportTarget",
    "Exported",
    "Served",
    "entry_name",
    "keep_keys",
    "rewrite_keys",
]

ExportMode = Literal["pinned", "switching"]
EXPORT_MODES: tuple[ExportMode, ...] = ("pinned", "switching")
ExportTarget = Literal["hf", "gguf"]


@dataclass(frozen=True, kw_only=True)
class Served:
    """The factors of an export, and which of them a sequence gets.

        pinned       every length: the set's longest entry; short and long are the same
        switching    1 .. L: the set's entry for L (`original_length`); beyond L: its longest entry

    An engine that chooses once, by its context and not by the sequence, follows the same rule with the
    context's length (llama.cpp, vLLM): exactly L still means short.

    Attributes:
        short: the factors for up to and including `original_length` tokens.
        long: the factors for longer sequences, up to their `target_length`.
        left_out: the set's entries that are neither of the two.

    Raises:
        ExportError: the factors do not extend the context window, or have one vector per layer, which no
            engine supports.
    """

    mode: ExportMode
    short: RescaleFactors
    long: RescaleFactors
    left_out: tuple[RescaleFactors, ...] = ()

    def __post_init__(self) -> None:
        geometry, target = self.long.geometry, self.long.target_length
        if target <= geometry.original_length:
            raise ExportError(
                f"These factors are for up to {target} tokens, but the model's window is "
                f"{geometry.original_length}: export factors for a longer target."
            )
        if self.short.per_layer or self.long.per_layer:
            raise ExportError(
                "These factors have one vector per layer, which no engine supports: search one vector for "
                "all layers, or use them in Python by `ropewalk.apply`."
            )

    @classmethod
    def of(cls, factor_set: FactorSet, mode: ExportMode) -> "Served":
        """Choose the entries of a set.

        Raises:
            ExportError: as the class, or the mode is unknown.
            FactorsError: an entry has a near window.
        """
        factor_set.require_plain("An export")
        if mode not in EXPORT_MODES:
            raise ExportError(f"The mode is {mode!r}, but must be one of {', '.join(EXPORT_MODES)}.")
        long = factor_set.longest
        window = min(factor_set.geometry.original_length, long.target_length)
        short = long if mode == "pinned" else factor_set.for_length(window)
        left_out = tuple(entry for entry in factor_set.entries if entry not in (short, long))
        return cls(mode=mode, short=short, long=long, left_out=left_out)

    @property
    def geometry(self) -> RopeGeometry:
        return self.long.geometry

    def with_attention_factor(self, attention_factor: float) -> "Served":
        """The same factors with another attention factor."""
        short = self.short.replace(attention_factor=attention_factor)
        long = self.long.replace(attention_factor=attention_factor)
        return replace(self, short=long if self.short is self.long else short, long=long)

    def with_computed_attention_factor(self) -> "Served":
        """The same factors with the attention factor that engines compute."""
        long = self.long
        return self.with_attention_factor(
            longrope_attention_factor(long.extension_ratio, long.geometry.original_length)
        )

    def for_length(self, length: int) -> RescaleFactors:
        """The factors of a sequence, or of a context, of `length` tokens."""
        return self.short if length <= self.geometry.original_length else self.long


def entry_name(entry: RescaleFactors) -> str:
    """The name of a factor set's entry in `Dropped.what`."""
    return f"the entry for {entry.target_length} tokens"


@dataclass(frozen=True, kw_only=True)
class EngineNote:
    """Whether an engine computes the same from an export as Ropewalk.

    Attributes:
        engine: transformers, vllm, sglang, llama.cpp, mlx-lm, tensorrt-llm ...
        is_served: whether it does, with the flags in `what`.
        what: the flags or the version that it needs (empty for none), or the reason why it would be wrong, or
            why this is not known.
        is_known: whether its code for this model type was read or run.
    """

    engine: str
    is_served: bool
    what: str = ""
    is_known: bool = True

    @property
    def answer(self) -> str:
        """yes, NO, or not known."""
        return ("yes" if self.is_served else "NO") if self.is_known else "not known"


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A part of the factor set, or of the model, that an export does not have.

    Attributes:
        what: e.g. `the entry for 512 tokens`, `consolidated.safetensors`.
        cost: the measured cost of leaving it out (e.g. `perplexity 12.43 -> 12.71 at 512 tokens`), or the
            reason; None for a cost that was not measured.
    """

    what: str
    cost: str | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The result of an exporter.

    Attributes:
        path: the new folder or file.
        target: the exporter.
        served: the exported factors.
        engines: which engines serve it rightly.
        query_scale: what the rotated rows of the query weights are multiplied by, if the attention factor is
            folded into them; else None.
        dropped: the parts of the factor set and of the model that it does not have.
        files: path below `path` (for a file, its name) to SHA-256, weights included.
    """

    path: Path
    target: ExportTarget
    served: Served
    engines: tuple[EngineNote, ...]
    query_scale: float | None = None
    dropped: tuple[Dropped, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> ExportMode:
        return self.served.mode

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "path": str(self.path),
            "target": self.target,
            "mode": self.mode,
            "original_length": self.served.geometry.original_length,
            "target_length": self.served.long.target_length,
            "engines": [vars(note) for note in self.engines],
            "query_scale": self.query_scale,
            "dropped": [vars(dropped) for dropped in self.dropped],
            "files": self.files,
        }
