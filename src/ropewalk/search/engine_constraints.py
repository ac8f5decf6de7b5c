"""Engine constraints: what the engine that will serve can run, and so where a search looks.

                n-hat      attention factor
any             0          sqrt(1 + ln s / ln L), which every engine computes
transformers    0          any: read from `attention_factor`
vllm            0          any: read from `long_mscale`
llama.cpp       0          any: read from the GGUF key `rope.scaling.attn_factor`
ropewalk        any        any

`SearchSettings.serve_with` names the engine, and its default values keep within these constraints.
"""

from dataclasses import dataclass, replace

from ropewalk.search.settings import SearchEngine
from ropewalk.search.space import DECIMALS, Candidate

ATTENTION_SCALES = (0.95, 1.05)  # of the constrained attention factor
START_TOKENS = (4,)


@dataclass(frozen=True, kw_only=True)
class UnconstrainedCandidates:
    """Candidates next to the best one that the engine can't run: one step along each constraint.

    Their values are a lower bound of what the constraints cost; a search without constraints may find more.
    """

    attention_scales: tuple[float, ...]
    start_tokens: tuple[int, ...]

    @classmethod
    def beyond(cls, engine: SearchEngine) -> "UnconstrainedCandidates | None":
        """Those beyond an engine's constraints; None for an engine without constraints."""
        if engine == "ropewalk":
            return None
        scales = ATTENTION_SCALES if engine == "any" else ()
        return cls(attention_scales=scales, start_tokens=START_TOKENS)

    @property
    def num_candidates(self) -> int:
        return len(self.attention_scales) + len(self.start_tokens)

    def candidates(self, best: Candidate) -> list[Candidate]:
        """The `num_candidates` candidates next to this one."""
        scaled = [round(best.attention_factor * scale, DECIMALS) for scale in self.attention_scales]
        return [replace(best, attention_factor=value) for value in scaled] + [
            replace(best, num_start_tokens=count) for count in self.start_tokens
        ]
