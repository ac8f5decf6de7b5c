"""Engine constraints: what the engine that will serve can run, and so where a search looks.

                n-hat
any             0
transformers    0
vllm            0
llama.cpp       0
ropewalk        any

`SearchSettings.serve_with` names the engine, and its default values keep within these constraints. The
attention factor is no constraint. Engines read it (transformers from `attention_factor`, vLLM from
`long_mscale`, llama.cpp from the GGUF key `rope.scaling.attn_factor`), and for those that compute another one
an export folds it into the query weights (`export.fold`).
"""

from dataclasses import dataclass, replace

from ropewalk.search.settings import SearchEngine
from ropewalk.search.space import Candidate

START_TOKENS = (4,)


@dataclass(frozen=True, kw_only=True)
class UnconstrainedCandidates:
    """Candidates next to the best one that the engine can't run: the same with n-hat.

    Their values are a lower bound of what the constraint costs; a search without it may find more.
    """

    start_tokens: tuple[int, ...]

    @classmethod
    def beyond(cls, engine: SearchEngine) -> "UnconstrainedCandidates | None":
        """Those beyond an engine's constraints; None for an engine without constraints."""
        if engine == "ropewalk":
            return None
        return cls(start_tokens=START_TOKENS)

    @property
    def num_candidates(self) -> int:
        return len(self.start_tokens)

    def candidates(self, best: Candidate) -> list[Candidate]:
        """The `num_candidates` candidates next to this one."""
        return [replace(best, num_start_tokens=count) for count in self.start_tokens]
