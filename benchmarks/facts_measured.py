"""What `facts.py` measured, and comparisons of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from ropewalk.evaluate.intervals import Difference, paired_difference
from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.shares import ShareDifference, paired_share_difference

WINDOW, TARGET = 256, 2048
LENGTHS = (256, 512, 1024, 2048)
SEEN, UNSEEN, FOUR = "one, known wordings", "one, unseen wordings", "four, unseen wordings"
NUM_SCREENED = 50
BASE, CLOSED, RAMPS, DEFAULT = "base model", "closed form", "tuned ramp", "default search"
WEIGHTS, EVOLUTION = "other weight", "evolution"
UNDECIDED = "undecided"
VERDICTS = {True: "better", False: "worse", None: UNDECIDED}


@dataclass(frozen=True)
class Measured:
    """What was measured, by the names that `facts.py` gives it."""

    values: Mapping[str, Any]

    def first_with(self, values: Mapping[str, Any] | None) -> str | None:
        """The label of the first factors with these values, to nine decimals."""
        for label, one in self._of("factors").items():
            if _rounded(one["values"]) == _rounded(values):
                return label
        return None

    def labels(self, *groups: str) -> list[str]:
        return [label for label, one in self._of("factors").items() if one["group"] in groups]

    def perplexity(self, label: str) -> float:
        return reduce(add, self.sums(label)).perplexity

    def sums(self, label: str) -> list[NllSum]:
        """The NLL of each unseen document."""
        nats = self.values[f"nats {self.name(label)}"]
        return [NllSum(nll_sum_nats=of_one, num_tokens=count) for of_one, count in nats]

    def has_sums(self, label: str) -> bool:
        return f"nats {self.name(label)}" in self.values

    def answers(self, label: str, kind: str, length: int) -> list[tuple[bool, int]] | None:
        """Whether each question was answered, and its document; None where they were not asked."""
        return self.values.get(f"found {self.name(label)} / {kind} / {length}")

    def right(self, label: str, kind: str, length: int) -> int:
        answers = self.answers(label, kind, length)
        assert answers is not None, (label, kind, length)
        return sum(is_found for is_found, _ in answers)

    def screened(self, label: str, length: int) -> list[bool]:
        """Whether each of the first questions of known wordings was answered; empty where not asked."""
        answers = self.answers(label, SEEN, length)
        if answers is None:
            answers = self.values.get(f"screened {self.name(label)} / {length}", [])
        return [is_found for is_found, _ in answers[:NUM_SCREENED]]

    def search(self, label: str) -> Mapping[str, Any] | None:
        return self.values.get(f"search {label}")

    def exact_values(self, label: str) -> Mapping[str, float] | None:
        return self.values.get(f"value {self.name(label)}")

    def asked(self, labels: Sequence[str], kind: str, length: int) -> list[str]:
        """Those that answered all questions of a kind at a length."""
        return [label for label in labels if self.answers(label, kind, length) is not None]

    def share_difference(
        self, ours: str, theirs: str, kind: str, length: int, their_length: int | None = None
    ) -> ShareDifference:
        """Paired by question; questions about one document count as correlated.

        Args:
            their_length: of their texts, whose facts differ from ours at another length; None for `length`.
        """
        mine, others = self.answers(ours, kind, length), self.answers(theirs, kind, their_length or length)
        assert mine is not None, ours
        assert others is not None, theirs
        return paired_share_difference(
            [is_found for is_found, _ in mine],
            [is_found for is_found, _ in others],
            documents=[document for _, document in mine],
        )

    def difference(self, ours: str, theirs: str) -> Difference:
        return paired_difference(self.sums(ours), self.sums(theirs))

    def _of(self, what: str) -> dict[str, Any]:
        start = f"{what} "
        return {name.removeprefix(start): one for name, one in self.values.items() if name.startswith(start)}

    def name(self, label: str) -> str:
        """The label under which factors were measured."""
        name: str = self.values[f"factors {label}"]["as"]
        return name


def _rounded(values: Mapping[str, Any] | None) -> object:
    if values is None:
        return None
    factors = [round(factor, 9) for row in values["rescale_factors"] for factor in row]
    near_far = values.get("near_window", 0), round(values.get("near_attention_factor", 1.0), 9)
    return factors, values["num_start_tokens"], round(values["attention_factor"], 9), near_far


@dataclass(frozen=True, kw_only=True)
class AtLength:
    """The default search against the best closed form: questions of one kind at one length.

    Attributes:
        best: the closed form with the most right answers.
        found: right answers of each seed, ascending.
        difference: of the seed with the median number.
    """

    kind: str
    length: int
    best: str
    of_best: int
    found: tuple[int, ...]
    difference: ShareDifference

    @property
    def middle(self) -> int:
        found: int = middle(self.found)
        return found

    @property
    def verdict(self) -> str:
        return VERDICTS[self.difference.is_higher]


def middle(of: Sequence[Any], key: Callable[[Any], Any] = lambda one: one) -> Any:
    """The median one; of an even number the lower of the two."""
    return sorted(of, key=key)[(len(of) - 1) // 2]


def retrieval(seen: Measured) -> Iterator[AtLength]:
    """Each kind and length at which the default search and closed forms were asked."""
    for kind in (SEEN, UNSEEN, FOUR):
        for length in LENGTHS:
            ours = seen.asked(seen.labels(DEFAULT), kind, length)
            forms = seen.asked(seen.labels(CLOSED), kind, length)
            if not (ours and forms):
                continue
            right = {label: seen.right(label, kind, length) for label in (*ours, *forms)}
            best, ours_middle = max(forms, key=right.__getitem__), middle(ours, right.__getitem__)
            yield AtLength(
                kind=kind,
                length=length,
                best=best,
                of_best=right[best],
                found=tuple(sorted(right[label] for label in ours)),
                difference=seen.share_difference(ours_middle, best, kind, length),
            )


def lowest(seen: Measured, *groups: str) -> str | None:
    """The label of the lowest perplexity."""
    known = [label for label in seen.labels(*groups) if seen.has_sums(label)]
    return min(known, key=seen.perplexity, default=None)


def median_search(seen: Measured) -> str | None:
    """The seed of the default search with the median perplexity."""
    return median_of(seen, DEFAULT)


def median_of(seen: Measured, group: str) -> str | None:
    """The factors of a group with the median perplexity; None if it was measured for none."""
    known = [label for label in seen.labels(group) if seen.has_sums(label)]
    return middle(known, seen.perplexity) if known else None
