"""FactorSet: factors for several lengths of one model, and the rule that chooses among them."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ropewalk.errors import FactorsError
from ropewalk.factors.file import (
    FORMAT,
    SET_FORMAT,
    InFile,
    Serves,
    SetFile,
    check,
    check_document,
    format_version,
    read_text,
)
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors, load_factors

# The file's name in the folder of its checkpoint.
FACTORS_NAME = "factors.json"


@dataclass(frozen=True, kw_only=True)
class FactorSet(InFile):
    """Factors for several lengths of one model, each with its n-hat and attention factor.

    An entry serves sequences of up to and including its `target_length`; the shortest that fits is used:

        entries at            256          512                     2048
        serve          1 .. 256   257 .. 512            513 .. 2048        2049 and more: none

    Near-far factors are for sequences above the model's window, so an entry of plain factors serves up to it.

    Attributes:
        entries: ascending by `target_length`.

    Raises:
        FactorsError: no entry, two entries of one length, a wrong order, different geometries, or near-far
            factors for lengths within the window.
    """

    entries: tuple[RescaleFactors, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise FactorsError("A factor set has no entry, but must have factors for at least one length.")
        for before, entry in zip(self.entries, self.entries[1:], strict=False):
            if entry.target_length == before.target_length:
                raise FactorsError(
                    f"A factor set has two entries for {entry.target_length} tokens, but must have one per "
                    f"length: leave one out."
                )
            if entry.target_length < before.target_length:
                raise FactorsError(
                    f"A factor set has its entry for {entry.target_length} tokens after that for "
                    f"{before.target_length}, but must be ascending: sort its entries by length."
                )
            differences = before.geometry.differences(entry.geometry)
            if differences:
                raise FactorsError(
                    f"A factor set mixes geometries ({', '.join(differences)}), but must be for one model: "
                    f"remove the entries of other models."
                )
        if _has_near_far_within_window(self.entries):
            raise FactorsError(
                f"A factor set has no plain entry for up to {self.geometry.original_length} tokens, the "
                f"model's window, where near-far factors do not apply: add an entry without scaling."
            )

    @classmethod
    def of(cls, entries: Iterable[RescaleFactors]) -> Self:
        """A set of entries in any order.

        If near-far factors would serve the model's window, an entry without scaling is added for it.
        """
        ascending = sorted(entries, key=lambda entry: entry.target_length)
        if _has_near_far_within_window(ascending):
            window = ascending[0].geometry.original_length
            index = bisect_left([entry.target_length for entry in ascending], window)
            ascending.insert(index, ascending[index].unscaled)
        return cls(entries=tuple(ascending))

    @property
    def geometry(self) -> RopeGeometry:
        return self.entries[0].geometry

    @property
    def lengths(self) -> tuple[int, ...]:
        """The longest sequence that each entry serves, in tokens, ascending."""
        return tuple(entry.target_length for entry in self.entries)

    @property
    def longest(self) -> RescaleFactors:
        """The entry for the longest sequences."""
        return self.entries[-1]

    @property
    def has_near_far(self) -> bool:
        """Whether an entry has near-far factors."""
        return any(entry.is_near_far for entry in self.entries)

    @property
    def is_alone(self) -> bool:
        """Whether these are the factors of one factors file."""
        return self.entries == FactorSet.of([self.longest]).entries

    def for_length(self, length: int) -> RescaleFactors:
        """The factors for a sequence of `length` tokens.

        Raises:
            FactorsError: the length is below 1, or beyond the longest entry.
        """
        if length < 1:
            raise FactorsError(f"The length is {length} tokens, but must be at least 1.")
        index = bisect_left(self.lengths, length)
        if index == len(self.entries):
            raise FactorsError(
                f"The length is {length} tokens, but this factor set serves up to {self.lengths[-1]}: give "
                f"at most that, or extend the model further."
            )
        return self.entries[index]

    def require_plain(self, purpose: str) -> None:
        """As `RescaleFactors.require_plain`, for each entry."""
        for entry in self.entries:
            entry.require_plain(purpose)

    def require_geometry(self, geometry: RopeGeometry, model_name: str) -> None:
        """As `RescaleFactors.require_geometry`."""
        self.longest.require_geometry(geometry, model_name)

    def as_document(self) -> dict[str, Any]:
        """The content of the file, as JSON values.

        Each entry is a complete factors file, and states the lengths that it serves, so that `from_document`
        detects an entry that was removed by hand.
        """
        first, entries = 1, []
        for entry in self.entries:
            serves = {"from": first, "to": entry.target_length}
            entries.append({"serves": serves, "factors": entry.as_document()})
            first = entry.target_length + 1
        version = format_version(near_far=self.has_near_far)
        return {"format": SET_FORMAT, "version": version, "entries": entries}

    @classmethod
    def from_document(cls, document: Any, source: str) -> Self:
        """As `load`, from parsed JSON; a file of factors for one length is a set with one entry.

        Entries may be for lengths within the model's window, except the longest one.
        """
        is_alone = check_document(document, source)["format"] == FORMAT
        alone = RescaleFactors.from_document(document, source) if is_alone else None
        try:
            factors = cls.of([alone]) if alone else cls._from_file(check(SetFile, document))
            factors.longest.require_window()
            return factors
        except FactorsError as error:
            kind = "factors file" if is_alone else "factor set"
            raise FactorsError(f"{source} is not a valid {kind}: {error}") from None

    @classmethod
    def _from_file(cls, file: SetFile) -> Self:
        factors = cls(entries=_read_entries(file))
        needed = format_version(near_far=factors.has_near_far)
        if file.version != needed:
            raise FactorsError(
                f"its version is {file.version}, but its entries need version {needed}: correct the version."
            )
        return factors


def load_set(
    path: str | Path, *, geometry: RopeGeometry | None = None, target_length: int | None = None
) -> FactorSet:
    """Read a factor set, a factors file, or the public CSV form, as `load_factors` does.

    Raises:
        FactorsError: none of these, or a CSV without `geometry` and `target_length`.
    """
    text = read_text(Path(path))
    if text.lstrip().startswith(("{", "[")):
        return FactorSet.from_json(text, str(path))
    return FactorSet(entries=(load_factors(path, geometry=geometry, target_length=target_length),))


def _has_near_far_within_window(ascending: Sequence[RescaleFactors]) -> bool:
    """Whether the entry for sequences of the model's whole window has near-far factors."""
    within = (entry for entry in ascending if entry.target_length >= entry.geometry.original_length)
    shortest = next(within, None)
    return shortest is not None and shortest.is_near_far


def _read_entries(file: SetFile) -> tuple[RescaleFactors, ...]:
    read: list[RescaleFactors] = []
    for number, entry in enumerate(file.entries, start=1):
        factors = RescaleFactors.from_document(entry.factors, f"entry {number}")
        first = read[-1].target_length + 1 if read else 1
        _require_serves(entry.serves, first, factors.target_length, number)
        read.append(factors)
    return tuple(read)


def _require_serves(serves: Serves, first: int, last: int, number: int) -> None:
    """Check that an entry begins right after the previous entry, and ends at its own target length."""
    if serves.last != last:
        raise FactorsError(
            f"entry {number} states that it serves up to {serves.last} tokens, but its factors are for "
            f"{last}: correct one of the two."
        )
    if serves.first > first:
        raise FactorsError(
            f"there is a gap: lengths {first} to {serves.first - 1} have no entry before entry {number}, but "
            f"every length needs an entry: add it, or let entry {number} serve from {first}."
        )
    # `FactorSet` itself refuses entries that are not ascending.
    if serves.first < first <= last:
        raise FactorsError(
            f"entry {number} states that it serves from {serves.first} tokens, but the previous one serves "
            f"up to {first - 1}: let it serve from {first}."
        )
