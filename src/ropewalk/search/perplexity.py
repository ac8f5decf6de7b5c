"""The objective of LongRoPE's search: perplexity of whole documents at the target length."""

from ropewalk.evaluate.nll import score_windows
from ropewalk.factors import RescaleFactors
from ropewalk.models.load import LoadedModel
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.text.tokens import DocumentSet
from ropewalk.text.windows import truncate


class PerplexityObjective:
    """Token-weighted perplexity over documents, each read once from its start to the target length.

    The model is left as it was after every call.
    """

    cost = 1.0

    def __init__(
        self,
        loaded: LoadedModel,
        documents: DocumentSet,
        space: SearchSpace,
        own: RescaleFactors | None = None,
    ) -> None:
        """`own`: a scaling that the candidates are multiplied onto, for searches `as-is`."""
        self._loaded = loaded
        self._space = space
        self._own = own
        self._windows = [
            window for document in documents.documents for window in truncate(document, space.target_length)
        ]
        shape = f"{len(self._windows)} documents of {space.target_length} tokens"
        self.name = f"perplexity of {shape}, each read in one pass"

    def factors(self, candidate: Candidate) -> RescaleFactors:
        """What is installed for a candidate."""
        factors = self._space.to_factors(candidate)
        return factors if self._own is None else factors.compose(self._own)

    def __call__(self, candidate: Candidate) -> float:
        with self._loaded.installed(self.factors(candidate)):
            return score_windows(self._loaded.model, self._windows).perplexity
