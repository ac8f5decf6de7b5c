"""Which engines compute the same from a transformers folder as Ropewalk, and with which flags.

An engine is right only for model types whose code in it was read or run. `known_engines.json` lists them with
the engine's version (`benchmarks/exported_families.py` writes those of transformers). For all other types the
result is not known. A type that an engine gets wrong is listed with the reason.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ropewalk.errors import ExportError
from ropewalk.export import EngineNote, Served
from ropewalk.models.longrope_config import (
    MSCALE_TYPES,
    SOFTMAX_KEY,
    THREE_KEYS_IN_4,
    foreign_keys,
    is_computed,
    of_layer_type,
)

HF_ENGINES = (
    "any", "transformers", "transformers4", "vllm", "sglang", "mlx-lm", "tensorrt-llm", "ropewalk",
)  # fmt: skip

KNOWN = Path(__file__).with_name("known_engines.json")
# The families whose attention reads the softmax scale from the rotary's dictionary; others ignore the key.
SOFTMAX_READERS = (
    "axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite",
    "glm_moe_dsa", "hy_v4", "longcat_flash", "minicpm3", "mistral4", "mistral_large4", "youtu",
)  # fmt: skip


ONE_SIDE = (
    "each forward of at most {window} tokens uses the short factors, for the whole batch; only phi3, phimoe "
    "and phi4_multimodal drop their cache if a generation crosses {window}, others mix both sets: keep the "
    "prompt and the new tokens on one side, or use `ropewalk.load`"
)


class Support(NamedTuple):
    """Whether an engine computes the same from these factors, with which flags, or why not."""

    is_right: bool
    how: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What decides which engine is right.

    Attributes:
        served: the factors as the folder's configuration states them (after a fold).
        model_type: of the text model.
        family: the model type at the top of the configuration, by which engines choose their code.
        has_runtime: whether the folder has what Ropewalk's loader and its vLLM plugin need.
        kept: the keys of the rotary's dictionary that are not about the factors.
    """

    served: Served
    model_type: str
    family: str
    has_runtime: bool = False
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_computed(self) -> bool:
        """Whether every engine computes these attention factors itself."""
        return all(is_computed(entry, self.served.long) for entry in (self.served.short, self.served.long))

    @property
    def has_two_attention_factors(self) -> bool:
        return self.served.short.attention_factor != self.served.long.attention_factor

    @property
    def num_start_tokens(self) -> int:
        return max(self.served.short.num_start_tokens, self.served.long.num_start_tokens)


def notes_for_folder(facts: Facts) -> tuple[EngineNote, ...]:
    """One note per engine, the best known first."""
    target = facts.served.long.target_length
    notes = [
        _note("transformers", facts, _transformers),
        _note("transformers4", facts, _transformers_4),
        _note("vllm", facts, _vllm),
        _note("sglang", facts, _sglang),
        _note("mlx-lm", facts, lambda facts: _computing(facts, "mlx-lm", "")),
        _note(
            "tensorrt-llm", facts, lambda facts: _computing(facts, "tensorrt-llm", f"max_seq_len {target}")
        ),
        EngineNote(
            engine="llama.cpp",
            is_served=False,
            what="its converter drops the factors of most families: use `ropewalk export gguf`",
        ),
    ]
    if facts.has_runtime:
        notes.insert(0, EngineNote(engine="ropewalk", is_served=True, what="`ropewalk.load(folder)`"))
    return tuple(notes)


def needs_fold(facts: Facts, serve_with: str) -> bool:
    """Whether an engine is wrong only because it computes another attention factor than the factors have."""
    if facts.has_two_attention_factors:
        return False
    computed = replace(facts, served=facts.served.with_computed_attention_factor())
    answers = [
        note.answer
        for one in (facts, computed)
        for note in notes_for_folder(one)
        if note.engine == serve_with
    ]
    return answers in (["NO", "yes"], ["NO", "not known"])


def require_engine(facts: Facts, serve_with: str) -> None:
    """Refuse an export that the requested engine would not compute as Ropewalk does.

    Raises:
        ExportError: the engine is unknown, or the reason why it would be wrong.
    """
    if serve_with not in HF_ENGINES:
        raise ExportError(f"There is no engine {serve_with!r}: choose one of {', '.join(HF_ENGINES)}.")
    if serve_with == "any":
        _require_one_attention_factor(facts)
        return
    note = next((note for note in notes_for_folder(facts) if note.engine == serve_with), None)
    if note is None:
        raise ExportError(f"{serve_with} needs a factor set in the folder: export with --with-runtime.")
    if not note.is_known:
        raise ExportError(
            f"Whether {serve_with} would be right is not known ({note.what}): leave --serve-with out."
        )
    if not note.is_served:
        raise ExportError(
            f"{serve_with} would be wrong ({note.what}): choose another engine or other factors."
        )


def _require_one_attention_factor(facts: Facts) -> None:
    if facts.has_two_attention_factors and not facts.has_runtime and facts.model_type not in MSCALE_TYPES:
        short, long = facts.served.short.attention_factor, facts.served.long.attention_factor
        raise ExportError(
            f"The short factors have the attention factor {short:g} and the long factors {long:g}, but only "
            f"vLLM reads two: export with --serve-with vllm or --mode pinned, or readjust with one for both."
        )


@cache
def known_engines() -> dict[str, dict[str, Any]]:
    """What is known about each engine: `version`, `date`, `how` (read or run), and model types.

    `right`: the types for which it reads longrope as Ropewalk writes it. `wrong`: a reason to its types.
    `with`: a key of the rotary's dictionary that is not about the factors, to the types for which the engine
    reads it rightly. `run`: the types that were run although `how` is read, to the version.
    """
    known: dict[str, dict[str, Any]] = json.loads(KNOWN.read_text(encoding="utf-8"))
    return known


def _note(engine: str, facts: Facts, support: Callable[[Facts], Support]) -> EngineNote:
    """What is wrong with this model type or these factors in the engine, or the flags that it needs."""
    known, family = known_engines()[engine], facts.family
    wrong = next((reason for reason, families in known["wrong"].items() if family in families), None)
    if wrong is not None:
        return EngineNote(engine=engine, is_served=False, what=f"{wrong} ({_source(known, family)})")
    is_right, how = support(facts)
    if not is_right:
        return EngineNote(engine=engine, is_served=False, what=how)
    unknown = _unknown_part(known, facts)
    if unknown is not None:
        what = f"its code for {unknown} was neither read nor run: compare it with `ropewalk verify`"
        return EngineNote(engine=engine, is_served=False, is_known=False, what=what)
    what = "; ".join(part for part in (how, _source(known, family)) if part)
    return EngineNote(engine=engine, is_served=True, what=what)


def _unknown_part(known: Mapping[str, Any], facts: Facts) -> str | None:
    """The model type, or the key of the rotary's dictionary, that is not known in an engine; else None."""
    if facts.family not in known["right"]:
        return facts.family
    for key in foreign_keys(of_layer_type(facts.kept, facts.served.geometry.layer_type)):
        is_read = key != SOFTMAX_KEY or facts.family in SOFTMAX_READERS
        if is_read and facts.family not in known["with"].get(key, ()):
            return f"{facts.family} with {key}"
    return None


def _source(known: Mapping[str, Any], family: str) -> str:
    """Whether the code was read or run, and in which version."""
    run = known.get("run", {}).get(family)
    return f"run in {run}" if run else f"{known['how']} in {known['version']}"


def _transformers(facts: Facts) -> Support:
    wrong = _wrong_start_tokens(facts) or _wrong_attention_factors(facts)
    if wrong:
        return wrong
    if facts.served.mode == "pinned":
        return Support(True)
    if facts.model_type in MSCALE_TYPES:
        return Support(False, "its phimoe uses the short factors at every length")
    return Support(True, ONE_SIDE.format(window=facts.served.geometry.original_length))


def _transformers_4(facts: Facts) -> Support:
    if facts.model_type in THREE_KEYS_IN_4 and not facts.is_computed:
        return Support(
            False,
            f"version 4 refuses a stated attention factor in {facts.model_type}: export with --serve-with "
            f"transformers4, which folds it into the weights",
        )
    return _transformers(facts)


def _vllm(facts: Facts) -> Support:
    wrong = _wrong_start_tokens(facts)
    if wrong and not facts.has_runtime:
        return wrong
    target, window = facts.served.long.target_length, facts.served.geometry.original_length
    plugin = ", with Ropewalk's plugin (`vllm.general_plugins`)" if facts.num_start_tokens else ""
    if facts.served.mode == "pinned":
        return Support(True, f"`--max-model-len {target}` (by default it stops at {window}){plugin}")
    return Support(
        True,
        f"it chooses at its start: `--max-model-len {target}` for the long factors, "
        f"`--max-model-len {window}` for the short factors{plugin}",
    )


def _sglang(facts: Facts) -> Support:
    wrong = _wrong_start_tokens(facts)
    if wrong:
        return wrong
    if facts.served.mode == "switching":
        return Support(False, "it chooses in every forward, by any position of the batch")
    window, target = facts.served.geometry.original_length, facts.served.long.target_length
    return Support(
        True,
        f"`--context-length {target}`; it rotates the token at position {window} as the first token if "
        f"its batch has no larger position",
    )


def _computing(facts: Facts, engine: str, flags: str) -> Support:
    """An engine that computes the attention factor and reads none."""
    wrong = _wrong_start_tokens(facts)
    if wrong:
        return wrong
    if not facts.is_computed:
        return Support(
            False,
            f"it multiplies by its own attention factor: export with --serve-with {engine}, which folds the "
            f"factors' own into the weights",
        )
    if facts.served.mode == "switching" and not flags:
        return Support(False, "it uses the long factors at every length")
    return Support(True, flags)


def _wrong_start_tokens(facts: Facts) -> Support | None:
    if not facts.num_start_tokens:
        return None
    return Support(
        False,
        f"it rotates the first {facts.num_start_tokens} tokens like all others, without start tokens (n-hat)",
    )


def _wrong_attention_factors(facts: Facts) -> Support | None:
    if not facts.has_two_attention_factors or facts.model_type in MSCALE_TYPES:
        return None
    return Support(False, "it uses the attention factor of the long factors for both sets")
