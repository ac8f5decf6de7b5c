"""What every exporter takes and gives, whatever it writes.

An exporter is one function, `export_X(source, factor_set, out, *, mode, ...) -> Exported`. It writes to a
place that does not exist yet, whole or not at all (`export.output`). What its target can't hold is refused
(`ExportError`), or dropped on request and then named in `Exported.dropped`; never silently.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ropewalk.errors import ExportError
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.transformers4_config import keep_keys, rewrite_keys

__all__ = [
    "MODES",
    "Dropped",
    "EngineNote",
    "Exported",
    "Mode",
    "Served",
    "Target",
    "entry_name",
    "keep_keys",
    "rewrite_keys",
]

Mode = Literal["pinned", "switching"]
MODES: tuple[Mode, ...] = ("pinned", "switching")
Target = Literal["hf", "gguf"]


@dataclass(frozen=True, kw_only=True)
class Served:
    """The factors that an export holds, and which of them a sequence gets.

        pinned       every length: the set's longest entry; short and long are the same
        switching    1 .. L: the set's entry for L (`original_length`); beyond L: its longest entry

    An engine that chooses once, by its context and not by the sequence, follows the same rule with the
    context's length (llama.cpp, vLLM): exactly L still means short.

    Attributes:
        short: serves up to and including `original_length` tokens.
        long: serves what is longer, up to its own `target_length`.
        left_out: entries of the set that are neither of the two.

    Raises:
        ExportError: nothing is extended, or a vector for each layer, which no engine can hold.
    """

    mode: Mode
    short: RescaleFactors
    long: RescaleFactors
    left_out: tuple[RescaleFactors, ...] = ()

    def __post_init__(self) -> None:
        geometry, target = self.long.geometry, self.long.target_length
        if target <= geometry.original_length:
            raise ExportError(
                f"These factors serve up to {target} tokens, but the model already reads "
                f"{geometry.original_length}: there is nothing to ship."
            )
        if self.short.per_layer or self.long.per_layer:
            raise ExportError(
                "These factors have a vector for each layer, which no engine can hold: search one vector for "
                "all layers, or use them in Python by `ropewalk.apply`."
            )

    @classmethod
    def of(cls, factor_set: FactorSet, mode: Mode) -> "Served":
        """Choose from a set.

        Raises:
            ExportError: as the class, or there is no such mode.
        """
        if mode not in MODES:
            raise ExportError(f"The mode is {mode!r}, but must be one of {', '.join(MODES)}.")
        long = factor_set.longest
        window = min(factor_set.geometry.original_length, long.target_length)
        short = long if mode == "pinned" else factor_set.for_length(window)
        left_out = tuple(entry for entry in factor_set.entries if entry not in (short, long))
        return cls(mode=mode, short=short, long=long, left_out=left_out)

    @property
    def geometry(self) -> RopeGeometry:
        return self.long.geometry

    def with_attention_factor(self, attention_factor: float) -> "Served":
        """The same factors, with another attention factor in both."""
        short = self.short.replace(attention_factor=attention_factor)
        long = self.long.replace(attention_factor=attention_factor)
        return replace(self, short=long if self.short is self.long else short, long=long)

    def for_length(self, length: int) -> RescaleFactors:
        """The factors of a sequence (or, where an engine chooses so, of a context) of `length` tokens."""
        return self.short if length <= self.geometry.original_length else self.long


def entry_name(entry: RescaleFactors) -> str:
    """What `Dropped` calls an entry that is left out."""
    return f"the entry for {entry.target_length} tokens"


@dataclass(frozen=True, kw_only=True)
class EngineNote:
    """Whether an engine serves an export as Ropewalk computes it.

    Attributes:
        engine: transformers, vllm, sglang, llama.cpp, mlx-lm, tensorrt-llm ...
        is_served: it does, with the flags of `what`.
        what: the flags or the version that it needs (empty: none); or why it would be wrong, or is not known.
        is_known: its code for this model type was read or run; else it may or may not serve it rightly.
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
    """Something of the factor set, or of the model, that an export does not hold.

    Attributes:
        what: e.g. `the entry for 512 tokens`, `n-hat 4`, `consolidated.safetensors`.
        cost: what leaving it out costs, as measured (e.g. `perplexity 12.43 -> 12.71 at 512 tokens`), or why
            it is left out; None for a cost that was not measured.
    """

    what: str
    cost: str | None = None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an exporter wrote.

    Attributes:
        path: the folder, or the file.
        target: what it is for.
        served: the factors that it holds.
        engines: those that serve it rightly, and those that would be wrong.
        dropped: what of the factor set it does not hold.
        files: path below `path` (of a file, its name) to SHA-256; weights included.
    """

    path: Path
    target: Target
    served: Served
    engines: tuple[EngineNote, ...]
    dropped: tuple[Dropped, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> Mode:
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
            "dropped": [vars(dropped) for dropped in self.dropped],
            "files": self.files,
        }
