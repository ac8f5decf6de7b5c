"""Which texts an engine reads, in which context, and with which factors."""

from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.errors import SettingError
from ropewalk.export import Served
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.verify.engines import Engine

LONGEST_BY_DEFAULT = 16384  # tokens


@dataclass(frozen=True, kw_only=True)
class Case:
    """One text.

    Attributes:
        length: tokens of the text.
        context: tokens that the engine is started for, if it chooses the factors by that; else None.
        factors: the factors that it should use.
        is_long: whether these are the long factors.
    """

    length: int
    context: int | None
    factors: RescaleFactors
    is_long: bool

    @property
    def deciding_length(self) -> int:
        """The number of tokens by which the engine chooses the factors."""
        return self.context or self.length


def default_lengths(served: Served) -> list[int]:
    """A short text, the window, one token more, and long texts, in tokens."""
    window, target = served.geometry.original_length, served.long.target_length
    longest = max(min(target, LONGEST_BY_DEFAULT), window + 1)
    return sorted(
        {max(2, window // 4), window, min(window + 1, target), min(2 * window, target), longest},
    )


def require_lengths(lengths: Sequence[int], served: Served, num_tokens: int) -> None:
    """Refuse lengths that the factors are not for.

    Raises:
        SettingError: a length is out of range.
    """
    target = served.long.target_length
    for length in lengths:
        if not 2 <= length <= target:
            raise SettingError(
                f"A length is {length} tokens, but must be from 2 to the target of these factors, {target}."
            )
    assert max(lengths) <= num_tokens, (lengths, num_tokens)


def make_cases(served: Served, lengths: Sequence[int], engine: Engine) -> list[Case]:
    """One case per length; for an engine that chooses by context, also a short text in a long context."""
    if not engine.chooses_by_context:
        return [_case(served, length, None) for length in lengths]
    window, target = served.geometry.original_length, served.long.target_length
    short_context = window // engine.context_step * engine.context_step  # the largest that means short
    contexts = [(length, short_context if length <= short_context else target) for length in lengths]
    if served.mode == "switching":
        contexts += [(length, target) for length in lengths if length <= short_context][:1]
    return [_case(served, length, context) for length, context in contexts]


def _case(served: Served, length: int, context: int | None) -> Case:
    deciding_length = context or length
    return Case(
        length=length,
        context=context,
        factors=served.for_length(deciding_length),
        is_long=deciding_length > served.geometry.original_length,
    )
