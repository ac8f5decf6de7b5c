"""The measured cost of leaving an entry of a factor set out, on a text that the user gives."""

from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import FactorsAtLength
from ropewalk.export import Dropped, Served, entry_name
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.text.tokens import token_documents

NUM_DOCUMENTS = 5


def measure_left_out(loaded: Model, served: Served, text: str) -> list[Dropped]:
    """Measure the perplexity at the length of each entry that is left out, with it and without it.

    Without it, a sequence of that length gets the factors of `served`.

    Raises:
        DataError: the text has no document of that length.
    """
    measured = []
    for entry in served.left_out:
        length = entry.target_length
        documents = token_documents(text, loaded.tokenizer, length=length, num_documents=NUM_DOCUMENTS)
        choices = {"entry": _at_every_length(entry), "served": _at_every_length(served.for_length(length))}
        with_entry, without = measure_perplexity(loaded, documents, [length], factors=choices)
        cost = (
            f"perplexity {with_entry.value:.3f} -> {without.value:.3f} at {length} tokens, n = "
            f"{with_entry.n} documents of {text}"
        )
        measured.append(Dropped(what=entry_name(entry), cost=cost))
    return measured


def _at_every_length(factors: RescaleFactors) -> FactorsAtLength:
    return lambda _length: factors
