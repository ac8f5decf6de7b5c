"""Which engine serves a transformers folder as Ropewalk computes it, and with which flags.

Read in the engines' sources, and tried here for transformers 4 and 5 (`ropewalk verify`); the docs tell what
each one reads. What an engine gets wrong is named, not left out.
"""

from dataclasses import dataclass
from typing import Literal

from ropewalk.errors import ExportError
from ropewalk.export import EngineNote, Served
from ropewalk.models.longrope_keys import MSCALE_TYPES, REFUSED_IN_4, THREE_KEYS_IN_4, is_computed

ServeWith = Literal[
    "any", "transformers", "transformers4", "vllm", "sglang", "mlx-lm", "tensorrt-llm", "ropewalk"
]
SERVE_WITH: tuple[ServeWith, ...] = (
    "any", "transformers", "transformers4", "vllm", "sglang", "mlx-lm", "tensorrt-llm", "ropewalk",
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
        model_type: the family.
        has_runtime: the folder carries what Ropewalk's loader and its vLLM plugin need.
    """

    served: Served
    model_type: str
    has_runtime: bool = False

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
        _note("transformers", _transformers(facts)),
        _note("transformers4", _transformers_4(facts)),
        _note("vllm", _vllm(facts)),
        _note("sglang", _sglang(facts)),
        _note("mlx-lm", _computing(facts, "")),
        _note("tensorrt-llm", _computing(facts, f"max_seq_len {target}")),
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
    if not note.is_served:
        raise ExportError(f"{serve_with} would be wrong: {note.what}.")


def _note(engine: str, verdict: Verdict) -> EngineNote:
    return EngineNote(engine=engine, is_served=verdict[0], what=verdict[1])


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
    if facts.model_type in REFUSED_IN_4:
        return False, f"version 4 refuses longrope in {facts.model_type}"
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
    return (
        True,
        f"`--context-length {facts.served.long.target_length}` (not tried here)",
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
    return True, f"{flags} (not tried here)".strip()


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
