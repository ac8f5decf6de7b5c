"""What the engine that will serve can hold, and so where a search may look.

                n-hat      attention factor
any             0          sqrt(1 + ln s / ln L), which every engine computes
transformers    0          any: read from `attention_factor`
vllm            0          any: read from `long_mscale`
llama.cpp       0          any: read from the GGUF key `rope.scaling.attn_factor`
ropewalk        any        any
"""

from dataclasses import dataclass, replace
from typing import Literal

from ropewalk.errors import SettingError
from ropewalk.search.space import DECIMALS, Candidate

ServeWith = Literal["any", "transformers", "vllm", "llama.cpp", "ropewalk"]
ENGINES: tuple[ServeWith, ...] = ("any", "transformers", "vllm", "llama.cpp", "ropewalk")

PROBED_ATTENTION = (0.95, 1.05)  # times the limited one
PROBED_START_TOKENS = (4,)


def require_engine(name: str) -> None:
    """Refuse an engine that is not known.

    Raises:
        SettingError: no such engine.
    """
    if name not in ENGINES:
        raise SettingError(f"There is no engine {name!r}; the engines are {', '.join(ENGINES)}.")


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Candidates beside the best one that the limits forbid: one step along each that is not free.

    They bound what the limits cost from below: a whole search of the free space may find more.
    """

    attention: tuple[float, ...]
    start_tokens: tuple[int, ...]

    @classmethod
    def outside(cls, serve_with: ServeWith) -> "Probes | None":
        """Those outside an engine's limits; None where it has none.

        Raises:
            SettingError: no such engine.
        """
        require_engine(serve_with)
        if serve_with == "ropewalk":
            return None
        attention = PROBED_ATTENTION if serve_with == "any" else ()
        return cls(attention=attention, start_tokens=PROBED_START_TOKENS)

    @property
    def num_candidates(self) -> int:
        return len(self.attention) + len(self.start_tokens)

    def candidates(self, best: Candidate) -> list[Candidate]:
        """Always `num_candidates`."""
        scaled = [round(best.attention_factor * scale, DECIMALS) for scale in self.attention]
        return [replace(best, attention_factor=value) for value in scaled] + [
            replace(best, num_start_tokens=count) for count in self.start_tokens
        ]
