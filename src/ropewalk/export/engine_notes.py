"""Which engine serves a transformers folder as Ropewalk computes it, and with which flags.

An engine is said to be right only for model types whose code in it was read or run. These are data, with the
engine's version (`known_engines.json`; `benchmarks/exported_families.py` writes those of transformers). Of
all others it is not known. What an engine gets wrong is named, not left out.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ropewalk.errors import ExportError
from ropewalk.export import EngineNote, Served
from ropewalk.models.longrope_config import (
    MSCALE_TYPES,
    SOFTMAX_KEY,
    THREE_KEYS_IN_4,
    foreign_keys,
    is_computed,
)

ServeWith = Literal[
    "any", "transformers", "transformers4", "vllm", "sglang", "mlx-lm", "tensorrt-llm", "ropewalk"
]
SERVE_WITH: tuple[ServeWith, ...] = (
    "any", "transformers", "transformers4", "vllm", "sglang", "mlx-lm", "tensorrt-llm", "ropewalk",
)  # fmt: skip

KNOWN = Path(__file__).with_name("known_engines.json")
# Families whose attention reads the softmax scale from the rotary's dictionary; others leave the key alone.
SOFTMAX_READERS = (
    "axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite",
    "glm_moe_dsa", "hy_v4", "longcat_flash", "minicpm3", "mistral4", "mistral_large4", "youtu",
)  # fmt: skip

Verdict = tuple[bool, str]  # right or not, and how or why

ONE_SIDE = (
    "each forward of at most {window} tokens turns by the short set, over the whole batch; only phi3, phimoe "
    "and phi4_multimodal drop their cache where a generation crosses {window}, others mix both sets: keep "
    "prompt and new tokens on one side, or use `ropewalk.load`"
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decides which engine is right.

    Attributes:
        served: the factors in the folder, as its configuration states them (after a fold).
        model_type: of the text model.
        family: the model type at the top of the configuration, by which engines choose their code.
        has_runtime: the folder carries what Ropewalk's loader and its vLLM plugin need.
        kept: what the rotary's dictionary says besides the factors.
    """

    served: Served
    model_type: str
    family: str
    has_runtime: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_computed(self) -> bool:
        """Every engine computes these attention factors by itself."""
        return all(is_computed(entry, self.served.long) for entry in (self.served.short, self.served.long))

    @property
    def has_two_attention_factors(self) -> bool:
        return self.served.short.attention_factor != self.served.long.attention_factor

    @property
    def num_start_tokens(self) -> int:
        return max(self.served.short.num_start_tokens, self.served.long.num_start_tokens)


def notes_for_folder(facts: Facts) -> tuple[EngineNote, ...]:
    """A note for each engine, best known first."""
    target = facts.served.long.target_length
    notes = [
        _note("transformers", facts, _transformers),
        _note("transformers4", facts, _transformers_4),
        _note("vllm", facts, _vllm),
        _note("sglang", facts, _sglang),
        _note("mlx-lm", facts, lambda facts: _computing(facts, "")),
        _note("tensorrt-llm", facts, lambda facts: _computing(facts, f"max_seq_len {target}")),
        EngineNote(
            engine="llama.cpp",
            is_served=False,
            what="its converter drops the factors of most families: use `ropewalk export gguf`",
        ),
    ]
    if facts.has_runtime:
        notes.insert(0, EngineNote(engine="ropewalk", is_served=True, what="`ropewalk.load(folder)`"))
    return tuple(notes)


def require_engine(facts: Facts, serve_with: str) -> None:
    """Refuse an export that the engine it is meant for would serve wrongly.

    Raises:
        ExportError: no such engine, or the reason.
    """
    if serve_with not in SERVE_WITH:
        raise ExportError(f"There is no engine {serve_with!r}; the engines are {', '.join(SERVE_WITH)}.")
    if serve_with == "any":
        if facts.has_two_attention_factors and not facts.has_runtime and facts.model_type not in MSCALE_TYPES:
            short, long = facts.served.short.attention_factor, facts.served.long.attention_factor
            raise ExportError(
                f"The short set has the attention factor {short:g} and the long one {long:g}, but only vLLM "
                f"reads two: say --serve-with vllm, readjust with one for both, or pin one set (--mode "
                f"pinned)."
            )
        return
    note = next((note for note in notes_for_folder(facts) if note.engine == serve_with), None)
    if note is None:
        raise ExportError(f"{serve_with} needs what --with-runtime puts into the folder: say it.")
    if not note.is_known:
        raise ExportError(
            f"Whether {serve_with} is right is not known: {note.what}, or leave --serve-with out."
        )
    if not note.is_served:
        raise ExportError(f"{serve_with} would be wrong: {note.what}.")


@cache
def known_engines() -> dict[str, dict[str, Any]]:
    """Engine to what is known of it: `version`, `date`, `how` (read or run), and model types.

    `right`: it reads longrope as Ropewalk writes it. `wrong`: reason to model types. `with`: a key of the
    rotary's dictionary that is not the rotation's, to model types for which it was seen to keep its meaning.
    `run`: those that were run, where others were read, to the version.
    """
    known: dict[str, dict[str, Any]] = json.loads(KNOWN.read_text(encoding="utf-8"))
    return known


def _note(engine: str, facts: Facts, judge: Callable[[Facts], Verdict]) -> EngineNote:
    """What is wrong with this model type in the engine, or with these factors, or how it is right."""
    known, family = known_engines()[engine], facts.family
    wrong = next((reason for reason, families in known["wrong"].items() if family in families), None)
    if wrong is not None:
        return EngineNote(engine=engine, is_served=False, what=f"{wrong} ({_source(known, family)})")
    is_right, what = judge(facts)
    if not is_right:
        return EngineNote(engine=engine, is_served=False, what=what)
    unknown = _not_known(known, facts)
    if unknown is not None:
        what = (
            f"its code for {unknown} was neither read nor run: compare what it computes by `ropewalk verify`"
        )
        return EngineNote(engine=engine, is_served=False, is_known=False, what=what)
    how = "; ".join(part for part in (what, _source(known, family)) if part)
    return EngineNote(engine=engine, is_served=True, what=how)


def _not_known(known: Mapping[str, Any], facts: Facts) -> str | None:
    """Of what nothing is known in an engine: the model type, or a key of its dictionary."""
    if facts.family not in known["right"]:
        return facts.family
    for key in foreign_keys(facts.kept):
        is_read = key != SOFTMAX_KEY or facts.family in SOFTMAX_READERS
        if is_read and facts.family not in known["with"].get(key, ()):
            return f"{facts.family} with {key}"
    return None


def _source(known: Mapping[str, Any], family: str) -> str:
    """How and in which version it is known."""
    run = known.get("run", {}).get(family)
    return f"run in {run}" if run else f"{known['how']} in {known['version']}"


def _transformers(facts: Facts) -> Verdict:
    wrong = _wrong_start_tokens(facts) or _wrong_two_factors(facts)
    if wrong:
        return wrong
    if facts.served.mode == "pinned":
        return True, ""
    if facts.model_type in MSCALE_TYPES:
        return False, "its phimoe turns by the short set at every length"
    window = facts.served.geometry.original_length
    return True, ONE_SIDE.format(window=window)


def _transformers_4(facts: Facts) -> Verdict:
    if facts.model_type in THREE_KEYS_IN_4 and not facts.is_computed:
        return (
            False,
            f"version 4 refuses a stated attention factor in {facts.model_type}",
        )
    return _transformers(facts)


def _vllm(facts: Facts) -> Verdict:
    target, window = facts.served.long.target_length, facts.served.geometry.original_length
    plugin = ", with Ropewalk's plugin (`vllm.general_plugins`)"
    wrong = _wrong_start_tokens(facts)
    if wrong and not facts.has_runtime:
        return wrong
    needs = plugin if facts.num_start_tokens else ""
    if facts.served.mode == "pinned":
        return (
            True,
            f"`--max-model-len {target}` (by default it stops at {window}){needs}",
        )
    return (
        True,
        f"it chooses at its start: `--max-model-len {target}` for the long set, `--max-model-len {window}` "
        f"for the short one{needs}",
    )


def _sglang(facts: Facts) -> Verdict:
    wrong = _wrong_start_tokens(facts)
    if wrong:
        return wrong
    if facts.served.mode == "switching":
        return False, "it chooses anew in every forward, by any position in the batch"
    window, target = facts.served.geometry.original_length, facts.served.long.target_length
    return True, (
        f"`--context-length {target}`; it turns the token at position {window} as the first one where no "
        f"position of its batch is larger"
    )


def _computing(facts: Facts, flags: str) -> Verdict:
    """An engine that computes the attention factor and reads none."""
    wrong = _wrong_start_tokens(facts)
    if wrong:
        return wrong
    if not facts.is_computed:
        return (
            False,
            "it multiplies by an attention factor of its own: say --fold-attention-factor",
        )
    if facts.served.mode == "switching" and not flags:
        return False, "it turns by the long set at every length"
    return True, flags


def _wrong_start_tokens(facts: Facts) -> Verdict | None:
    if not facts.num_start_tokens:
        return None
    return (
        False,
        f"it turns the first {facts.num_start_tokens} tokens like all others (n-hat is not read)",
    )


def _wrong_two_factors(facts: Facts) -> Verdict | None:
    if not facts.has_two_attention_factors or facts.model_type in MSCALE_TYPES:
        return None
    return False, "it multiplies both sets by the attention factor of the long one"
