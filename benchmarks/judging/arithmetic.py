"""What the paper's 1344 candidates cost when they are judged from kept keys, by arithmetic.

    cost = fixed readings + 1344 x (what a candidate computes) / (what a reading computes)

in readings of the search documents. Every candidate is judged on every document, so that the number of
documents cancels. Fixed readings are the first one, which keeps keys, and those that renew keys and read the
best candidate in full at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ropewalk.search.objectives import num_facts
from ropewalk.text.readings import MOST_SCORED, SCORED_SHARE

NUM_CANDIDATES = 1344
MOST_READINGS = 5.0
TOKENS_PER_FACT = 45  # that run for a candidate: statement, question and answer
STEP, LONGEST = 1024, 2**23  # tokens

CostAt = Callable[[int], float]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The matrices of a decoder, in numbers."""

    num_layers: int
    width: int
    key_width: int  # of all key-value heads
    mlp_width: int
    vocabulary: int

    def reading(self, length: int) -> float:
        """The floating-point operations of a causal reading with logits of all tokens."""
        return length * (self._matrices + self._attention(length / 2) + self._logits)

    def judgement(self, length: int, num_scored: int, num_late: int) -> float:
        """Those of a candidate: scored tokens spread over the text, and tokens at its end (facts)."""
        spread = num_scored * (self._matrices + self._attention(length / 2) + self._logits)
        return spread + num_late * (self._matrices + self._attention(length) + self._logits)

    @property
    def _matrices(self) -> float:
        attention = 2 * self.width**2 + 2 * self.width * self.key_width
        return 2.0 * self.num_layers * (attention + 3 * self.width * self.mlp_width)

    @property
    def _logits(self) -> float:
        return 2.0 * self.width * self.vocabulary

    def _attention(self, num_keys: float) -> float:
        return 4.0 * self.num_layers * self.width * num_keys


LLAMA_8B = Shape(num_layers=32, width=4096, key_width=1024, mlp_width=14336, vocabulary=128256)


def num_scored(length: int, most: int = MOST_SCORED) -> int:
    """The scored tokens of a text, by the product's rule with another limit (`text.readings`)."""
    return min(round(SCORED_SHARE * length), most)


def fact_tokens(length: int, *, with_facts: bool) -> int:
    """The tokens of facts and questions that run for a candidate."""
    return num_facts(length) * TOKENS_PER_FACT if with_facts else 0


def share_of_tokens(length: int, *, most: int, with_facts: bool) -> float:
    """Of a reading's tokens, which the product counts."""
    return (num_scored(length, most) + fact_tokens(length, with_facts=with_facts)) / length


def share_of_operations(length: int, *, most: int, with_facts: bool) -> float:
    """Of a reading's floating-point operations, for the shape of Llama 3.1 8B."""
    late = fact_tokens(length, with_facts=with_facts)
    return LLAMA_8B.judgement(length, num_scored(length, most), late) / LLAMA_8B.reading(length)


def cost(share: CostAt, length: int, fixed: float) -> float:
    """Of all candidates, in readings."""
    return fixed + NUM_CANDIDATES * share(length)


def shortest(share: CostAt, fixed: float) -> int | None:
    """The shortest length, a multiple of 1024 tokens, at which all candidates cost at most 5 readings."""
    lengths = range(STEP, LONGEST + 1, STEP)
    return next((length for length in lengths if cost(share, length, fixed) <= MOST_READINGS), None)


def most_tokens(length: int, num_documents: int, fixed: float) -> float:
    """How many tokens may run for a candidate, in all documents together, for at most 5 readings."""
    return (MOST_READINGS - fixed) * length * num_documents / NUM_CANDIDATES
