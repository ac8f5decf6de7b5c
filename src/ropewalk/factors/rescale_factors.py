"""RescaleFactors: the factors of one geometry and one target length.

A search returns them, a closed-form scheme computes them, and a model's own scaling is converted to them.
Installation, evaluation and export treat all three alike. A factors file states the geometry, how the factors
were made, and the version of the format.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import FactorsError, ModelError, shown
from ropewalk.factors.base import Base
from ropewalk.factors.file import (
    FORMAT,
    SET_FORMAT,
    FactorsFile,
    InFile,
    check_document,
    check_factors,
    format_version,
    parse_csv,
    read_text,
)
from ropewalk.factors.geometry import RopeGeometry, TunedGeometry
from ropewalk.units import ATTENTION_FACTORS, LONGEST

# No model needs larger values: a pair with the largest factor completes no turn at any length, and attention
# logits are multiplied by the square of the attention factor.
FACTORS = (0.01, float(LONGEST))
_NUMBERS = {"target_length", "num_start_tokens", "attention_factor", "near_window", "near_attention_factor"}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How factors were made; None for unknown values.

    Attributes:
        model, revision, weights_sha256: the model, its hub revision, and a hash of its weights.
        base: `native` if the factors replace the model's own scaling, `as-is` if they include it.
        strategy: the search strategy or the closed-form scheme, with its parameters.
        seed, data_sha256: the seed, and a hash of the texts.
        objective, objective_value: what was minimised, and the best value.
        versions: package name to version.
        settings: the other settings that are needed to repeat the run, as JSON values.
    """

    model: str | None = None
    revision: str | None = None
    weights_sha256: str | None = None
    base: Base | None = None
    strategy: str | None = None
    seed: int | None = None
    data_sha256: str | None = None
    objective: str | None = None
    objective_value: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RescaleFactors(InFile):
    """lambda_i, n-hat and the attention factor for one geometry and one target length.

    Pair i rotates by n * theta_i / lambda_i at position n, and by n * theta_i where n < `num_start_tokens`
    (LongRoPE, arXiv 2402.13753, Eq. 3); cos and sin are multiplied by `attention_factor`.

    With a `near_window` W the rotation depends on the distance (near-far factors). The score of a query at m
    and a key at n has the angle

        (m - n) * theta_i                              for m - n <  W, with `near_attention_factor`
        (m - n - W) * theta_i / lambda_i + W * theta_i for m - n >= W, with `attention_factor`

    Attributes:
        rescale_factors: lambda_i, each within `FACTORS` (a few published ones are just below 1); one row of
            `num_pairs` for all layers (the usual case), or one row per layer.
        target_length: L', tokens, from 1 to `units.LONGEST`.
        num_start_tokens: n-hat, tokens, from 0 to `units.LONGEST`.
        attention_factor: within `ATTENTION_FACTORS`.
        near_window: W, tokens, below the model's window; 0 for plain factors. Near-far factors have no start
            tokens, and a target length above the model's window.
        near_attention_factor: within `ATTENTION_FACTORS`; 1 in plain factors.

    Raises:
        FactorsError: a value breaks these rules.
    """

    geometry: RopeGeometry
    target_length: int
    rescale_factors: tuple[tuple[float, ...], ...]
    num_start_tokens: int = 0
    attention_factor: float = 1.0
    near_window: int = 0
    near_attention_factor: float = 1.0
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        num_rows, num_pairs = len(self.rescale_factors), self.geometry.num_pairs
        if num_rows not in (1, self.geometry.num_layers):
            raise FactorsError(
                f"{num_rows} vectors were given, but a model of {self.geometry.num_layers} layers takes one "
                f"for all layers or one per layer: give 1 or {self.geometry.num_layers}."
            )
        for row in self.rescale_factors:
            _check_row(row, num_pairs)
        _check_tokens("num_start_tokens", self.num_start_tokens, 0)
        _check_tokens("target_length", self.target_length, 1)
        _check_attention("attention_factor", self.attention_factor)
        _check_attention("near_attention_factor", self.near_attention_factor)
        self._check_near_window()

    def _check_near_window(self) -> None:
        window = self.geometry.original_length
        _check_tokens("near_window", self.near_window, 0)
        if self.near_window >= window:
            raise FactorsError(
                f"`near_window` is {self.near_window} tokens, but must be below the model's window of "
                f"{window}: give at most {window - 1}."
            )
        if not self.near_window and self.near_attention_factor != 1:
            raise FactorsError(
                f"`near_attention_factor` is {self.near_attention_factor}, but must be 1 without a near "
                f"window: give a `near_window`, or leave it out."
            )
        if self.near_window and self.num_start_tokens:
            raise FactorsError(
                f"`num_start_tokens` is {self.num_start_tokens}, but must be 0 with a near window: leave one "
                f"of the two out."
            )
        if self.near_window and self.target_length <= window:
            raise FactorsError(
                f"the target length is {self.target_length} tokens, but factors with a near window are for "
                f"more than the model's window of {window}: give a longer one, or leave the near window out."
            )

    @classmethod
    def single(
        cls,
        *,
        geometry: RopeGeometry,
        target_length: int,
        rescale_factors: Sequence[float] | NDArray[np.float64],
        num_start_tokens: int = 0,
        attention_factor: float = 1.0,
        near_window: int = 0,
        near_attention_factor: float = 1.0,
        provenance: Provenance | None = None,
    ) -> "RescaleFactors":
        """One vector of shape (num_pairs,) for all layers."""
        return cls(
            geometry=geometry,
            target_length=target_length,
            rescale_factors=(tuple(float(value) for value in rescale_factors),),
            num_start_tokens=num_start_tokens,
            attention_factor=float(attention_factor),
            near_window=near_window,
            near_attention_factor=float(near_attention_factor),
            provenance=provenance or Provenance(),
        )

    @property
    def per_layer(self) -> bool:
        """Whether layers have different factors."""
        return len(self.rescale_factors) > 1

    @property
    def is_near_far(self) -> bool:
        """Whether the rotation depends on the distance between query and key."""
        return self.near_window > 0

    @property
    def near(self) -> Self:
        """The plain factors for distances below `near_window`: lambda 1; these factors if they are plain."""
        if not self.is_near_far:
            return self
        return self.replace(
            rescale_factors=((1.0,) * self.geometry.num_pairs,),
            attention_factor=self.near_attention_factor,
            near_window=0,
            near_attention_factor=1.0,
        )

    @property
    def far(self) -> Self:
        """The plain factors for distances from `near_window` on; these factors if they are plain."""
        return self.replace(near_window=0, near_attention_factor=1.0)

    def require_plain(self, purpose: str) -> None:
        """Refuse near-far factors where one rotation of each position is needed.

        Args:
            purpose: what needs it, as the subject of a sentence: `An export`.

        Raises:
            FactorsError: the factors have a near window.
        """
        if self.is_near_far:
            raise FactorsError(
                f"{purpose} needs one rotation of each position, but these factors have a near window of "
                f"{self.near_window} tokens: give factors without one, or serve these with ropewalk.load."
            )

    def at_length(self, length: int) -> Self | None:
        """The factors for a sequence of `length` tokens.

        None, the base model, for near-far factors if the length is within the model's window.
        """
        is_within = self.is_near_far and length <= self.geometry.original_length
        return None if is_within else self

    @property
    def unscaled(self) -> Self:
        """The factors for sequences within the model's window, which leave its rotation unchanged."""
        made = self.provenance
        return self.replace(
            target_length=self.geometry.original_length,
            rescale_factors=((1.0,) * self.geometry.num_pairs,),
            num_start_tokens=0,
            attention_factor=1.0,
            near_window=0,
            near_attention_factor=1.0,
            provenance=Provenance(
                model=made.model,
                revision=made.revision,
                weights_sha256=made.weights_sha256,
                base="native",
                strategy="none",
            ),
        )

    def require_window(self) -> None:
        """Refuse factors for less than the model's window, which can't be its only ones.

        Raises:
            FactorsError: the target length is below the window.
        """
        window = self.geometry.original_length
        if self.target_length < window:
            raise FactorsError(
                f"the target length is {self.target_length} tokens, but the model reads {window} without "
                f"factors: give factors for at least {window}, or correct the length."
            )

    @property
    def extension_ratio(self) -> float:
        """s = L' / L."""
        return self.target_length / self.geometry.original_length

    def array(self) -> NDArray[np.float64]:
        """The factors, shape (1 or num_layers, num_pairs)."""
        return np.array(self.rescale_factors, dtype=np.float64)

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def compose(self, own: "RescaleFactors") -> "RescaleFactors":
        """Multiply lambdas and attention factors by those of a model's own scaling; the larger n-hat stays.

        The result has the geometry of `own`, with the original base frequencies.

        Raises:
            FactorsError: another number of pairs, or near-far factors.
        """
        for factors in (self, own):
            factors.require_plain("A scaling that is multiplied by another one")
        if own.geometry.num_pairs != self.geometry.num_pairs:
            raise FactorsError(
                f"{self.geometry.num_pairs} factors can't be multiplied with the model's own "
                f"{own.geometry.num_pairs}, but both must have one for each rotary pair: give factors of "
                f"this model."
            )
        total = self.array() * own.array()
        return self.replace(
            geometry=own.geometry,
            rescale_factors=tuple(tuple(row) for row in total.tolist()),
            num_start_tokens=max(self.num_start_tokens, own.num_start_tokens),
            attention_factor=self.attention_factor * own.attention_factor,
        )

    def as_window(self) -> TunedGeometry:
        """The geometry of a model that was trained with these factors, for its next extension.

        For factors per layer, it has their geometric mean.

        Raises:
            FactorsError: near-far factors.
        """
        self.require_plain("A second extension")
        geometry = {**self.geometry.as_dict(), "original_length": self.target_length}
        factors = np.exp(np.log(self.array()).mean(axis=0)) if self.per_layer else self.array()[0]
        return TunedGeometry(**geometry, rescale_factors=tuple(map(float, factors)))

    def require_geometry(self, geometry: RopeGeometry, model_name: str) -> None:
        """Refuse a model that these factors were not made for.

        Raises:
            FactorsError: names every value that differs.
        """
        differences = self.geometry.differences(geometry)
        if differences:
            raise FactorsError(
                f"These factors do not fit {model_name}: in the factors {', '.join(differences)} as in the "
                f"model; search factors for this model, or correct its window with --original-length."
            )

    def as_values(self) -> dict[str, Any]:
        """All values but geometry and provenance, as JSON values."""
        return {
            "target_length": self.target_length,
            "rescale_factors": [list(row) for row in self.rescale_factors],
            "num_start_tokens": self.num_start_tokens,
            "attention_factor": self.attention_factor,
            **self.near_values(),
        }

    def near_values(self) -> dict[str, Any]:
        """The near window and its attention factor as JSON values.

        Empty for plain factors, so that their files and hashes are the same as without these fields.
        """
        if not self.is_near_far:
            return {}
        return {"near_window": self.near_window, "near_attention_factor": self.near_attention_factor}

    def as_document(self) -> dict[str, Any]:
        """The content of the file, as JSON values."""
        rows = self.rescale_factors
        return {
            "format": FORMAT,
            "version": format_version(near_far=self.is_near_far),
            "geometry": self.geometry.as_dict(),
            "geometry_fingerprint": self.geometry.fingerprint(),
            "target_length": self.target_length,
            "rescale_factors": list(map(list, rows)) if self.per_layer else list(rows[0]),
            "num_start_tokens": self.num_start_tokens,
            "attention_factor": self.attention_factor,
            **self.near_values(),
            "provenance": dataclasses.asdict(self.provenance),
        }

    @classmethod
    def from_document(cls, document: Any, source: str) -> Self:
        """As `load`, from parsed JSON; `source` is named in errors."""
        if check_document(document, source)["format"] == SET_FORMAT:
            raise FactorsError(
                f"{source} is a factor set, with factors for several lengths, but factors for one length are "
                f"needed: read it with FactorSet.load, and choose by length."
            )
        try:
            return cls._from_file(check_factors(document))
        except (FactorsError, ModelError) as error:
            raise FactorsError(f"{source} is not a valid factors file: {error}") from None

    @classmethod
    def _from_file(cls, file: FactorsFile) -> Self:
        geometry = RopeGeometry(**file.geometry.model_dump())
        if geometry.fingerprint() != file.geometry_fingerprint:
            raise FactorsError("the geometry was edited and no longer matches its fingerprint.")
        rows = file.rescale_factors
        single = bool(rows) and not isinstance(rows[0], list)
        return cls(
            geometry=geometry,
            rescale_factors=tuple(tuple(row) for row in ([rows] if single else rows)),  # type: ignore[arg-type]
            provenance=Provenance(**file.provenance.model_dump()),
            **file.model_dump(include=_NUMBERS),
        )


def load_factors(
    path: str | Path, *, geometry: RopeGeometry | None = None, target_length: int | None = None
) -> RescaleFactors:
    """Read a factors file, or the public CSV form (one number per line).

    Args:
        geometry, target_length: for a CSV, which does not state them.

    Raises:
        FactorsError: neither format, or a CSV without `geometry` and `target_length`.
    """
    text = read_text(Path(path))
    if text.lstrip().startswith(("{", "[")):
        return _alone(RescaleFactors.from_json(text, str(path)), path)
    values = parse_csv(text, str(path))
    if geometry is None or target_length is None:
        raise FactorsError(
            f"{path} is a CSV of factors, which does not state its model: name the model (or theta, "
            f"rotary dimension and window) and the target length too."
        )
    try:
        factors = RescaleFactors.single(
            geometry=geometry,
            target_length=target_length,
            rescale_factors=values,
            provenance=Provenance(strategy="csv", base="native"),
        )
    except FactorsError as error:
        raise FactorsError(f"{path}: {error}") from None
    return _alone(factors, path)


def _alone(factors: RescaleFactors, path: str | Path) -> RescaleFactors:
    """Refuse factors that a model can't use as its only ones."""
    try:
        factors.require_window()
    except FactorsError as error:
        raise FactorsError(f"{path}: {error}") from None
    return factors


def _check_tokens(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LONGEST:
        raise FactorsError(
            f"`{name}` is {shown(value)}, but must be a whole number from {least} to {LONGEST} tokens."
        )


def _check_attention(name: str, value: float) -> None:
    least, most = ATTENTION_FACTORS
    if not least <= value <= most:
        raise FactorsError(f"`{name}` is {value}, but must be from {least:g} to {most:g}.")


def _check_row(row: tuple[float, ...], num_pairs: int) -> None:
    if len(row) != num_pairs:
        raise FactorsError(f"{len(row)} factors were given, but this geometry has {num_pairs} rotary pairs.")
    least, most = FACTORS
    for pair, value in enumerate(row):
        if not least <= value <= most:
            raise FactorsError(
                f"The factor of pair {pair} is {value}, but must be from {least:g} to {most:g}."
            )
