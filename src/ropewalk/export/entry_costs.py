"""What it costs to leave an entry of a factor set out: measured, where the user gives a text."""

from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import FactorsAtLength
from ropewalk.export import Dropped, Served, entry_name
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.text.tokens import token_documents

NUM_DOCUMENTS = 5


def measure_left_out(loaded: Model, served: Served, text: str) -> list[Dropped]:
    """Perplexity at each left out entry's length, with it and with what serves that length instead.

    Raises:
        DataError: no text that is long enough.
    """
    measured = []
    for entry in served.left_out:
        length = entry.target_length
        documents = token_documents(text, loaded.tokenizer, length=length, num_documents=NUM_DOCUMENTS)
        choices = {"own": _constant(entry), "instead": _constant(served.for_length(length))}
        own, other = measure_perplexity(loaded, documents, [length], factors=choices)
        cost = (
            f"perplexity {own.value:.3f} -> {other.value:.3f} at {length} tokens, n = {own.n} documents of "
            f"{text}"
        )
        measured.append(Dropped(what=entry_name(entry), cost=cost))
    return measured


def _constant(factors: RescaleFactors) -> FactorsAtLength:
    return lambda _length: factors
