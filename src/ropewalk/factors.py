"""RescaleFactors: the value that everybody passes, and its JSON file.

A search writes one, a closed-form scheme is one, a model's own scaling is read as one; so install,
evaluation and export treat them alike. A file can be read years later: it says which geometry it is
for, how it was made, and its format's version.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ropewalk.errors import FactorsError, ModelError
from ropewalk.files import write_atomically
from ropewalk.geometry import RopeGeometry, TunedGeometry

FORMAT = "ropewalk.factors"
SET_FORMAT = "ropewalk.factor-set"
FORMATS = (FORMAT, SET_FORMAT)
FORMAT_VERSION = 1  # of both
LARGEST_FILE_BYTES = 64 * 2**20

# Whether new factors replace the scaling that a model carries, or are multiplied onto it.
Base = Literal["native", "as-is"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where factors come from; what is unknown is None.

    Attributes:
        model, revision, weights_sha256: the model they were made on, its hub revision, a hash of its weights.
        base: `native` replaces the scaling that the model carries, `as-is` has it multiplied in.
        strategy: the search strategy or the closed-form scheme, with its parameters.
        seed, data_sha256: what a repetition needs.
        objective, objective_value: what was minimised, and the best value.
        versions: package name to version.
        settings: whatever else a repetition needs, as JSON values.
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
class RescaleFactors:
    """lambda_i, n-hat and the attention factor for one geometry and one target length.

    Pair i turns by n * theta_i / lambda_i at position n, and by n * theta_i where n < `num_start_tokens`
    (LongRoPE, arXiv 2402.13753, Eq. 3); cos and sin are multiplied by `attention_factor`.

    Attributes:
        rescale_factors: each at least 1; one row of `num_pairs` for all layers (the rule), or a row a layer.
        target_length: L', tokens.
        num_start_tokens: n-hat, tokens.

    Raises:
        FactorsError: a value breaks these rules.
    """

    geometry: RopeGeometry
    target_length: int
    rescale_factors: tuple[tuple[float, ...], ...]
    num_start_tokens: int = 0
    attention_factor: float = 1.0
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        num_rows, num_pairs = len(self.rescale_factors), self.geometry.num_pairs
        if num_rows not in (1, self.geometry.num_layers):
            raise FactorsError(
                f"{num_rows} vectors were given, but a model of {self.geometry.num_layers} layers takes "
                f"one for all layers or one a layer."
            )
        for row in self.rescale_factors:
            _check_row(row, num_pairs)
        if not _is_whole(self.num_start_tokens) or self.num_start_tokens < 0:
            raise FactorsError(
                f"`num_start_tokens` is {self.num_start_tokens!r}, but must be 0 or more tokens."
            )
        if not _is_whole(self.target_length) or self.target_length < 1:
            raise FactorsError(f"`target_length` is {self.target_length!r}, but must be at least 1 token.")
        if not (math.isfinite(self.attention_factor) and self.attention_factor > 0):
            raise FactorsError(
                f"`attention_factor` is {self.attention_factor}, but must be a finite number above 0."
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
        provenance: Provenance | None = None,
    ) -> "RescaleFactors":
        """One vector of shape (num_pairs,) for all layers."""
        return cls(
            geometry=geometry,
            target_length=target_length,
            rescale_factors=(tuple(float(value) for value in rescale_factors),),
            num_start_tokens=num_start_tokens,
            attention_factor=float(attention_factor),
            provenance=provenance or Provenance(),
        )

    @property
    def per_layer(self) -> bool:
        return len(self.rescale_factors) > 1

    @property
    def extension_ratio(self) -> float:
        """s = L' / L."""
        return self.target_length / self.geometry.original_length

    def array(self) -> NDArray[np.float64]:
        """The factors, shape (1 or num_layers, num_pairs)."""
        return np.array(self.rescale_factors, dtype=np.float64)

    def replace(self, **changes: Any) -> "RescaleFactors":
        return dataclasses.replace(self, **changes)

    def compose(self, own: "RescaleFactors") -> "RescaleFactors":
        """These factors on top of a model's own: lambdas and attention factors multiply, n-hat is the larger.

        The result holds for `own`'s geometry, which speaks of the plain base frequencies.
        """
        if own.geometry.num_pairs != self.geometry.num_pairs:
            raise FactorsError(
                f"{self.geometry.num_pairs} factors can't be composed with the model's own "
                f"{own.geometry.num_pairs}: both must have one for each rotary pair."
            )
        total = self.array() * own.array()
        return self.replace(
            geometry=own.geometry,
            rescale_factors=tuple(tuple(row) for row in total.tolist()),
            num_start_tokens=max(self.num_start_tokens, own.num_start_tokens),
            attention_factor=self.attention_factor * own.attention_factor,
        )

    def as_window(self) -> TunedGeometry:
        """The geometry of a model that was tuned with these: what is extended when it is extended again.

        Of a vector for each layer, the geometric mean counts.
        """
        geometry = {**self.geometry.as_dict(), "original_length": self.target_length}
        factors = np.exp(np.log(self.array()).mean(axis=0)) if self.per_layer else self.array()[0]
        return TunedGeometry(**geometry, rescale_factors=tuple(map(float, factors)))

    def require_geometry(self, geometry: RopeGeometry, model_name: str) -> None:
        """Refuse a model that these factors were not made for.

        Raises:
            FactorsError: names every number that differs.
        """
        differences = self.geometry.differences(geometry)
        if differences:
            raise FactorsError(
                f"These factors do not fit {model_name}: in the factors {', '.join(differences)} as in the "
                f"model; search factors for this model, or correct its window with --original-length."
            )

    def as_values(self) -> dict[str, Any]:
        """The numbers that the model turns by, without geometry and provenance, as JSON values."""
        return {
            "target_length": self.target_length,
            "rescale_factors": [list(row) for row in self.rescale_factors],
            "num_start_tokens": self.num_start_tokens,
            "attention_factor": self.attention_factor,
        }

    def as_document(self) -> dict[str, Any]:
        """What the file holds, as JSON values."""
        rows = self.rescale_factors
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "geometry": self.geometry.as_dict(),
            "geometry_fingerprint": self.geometry.fingerprint(),
            "target_length": self.target_length,
            "rescale_factors": list(map(list, rows)) if self.per_layer else list(rows[0]),
            "num_start_tokens": self.num_start_tokens,
            "attention_factor": self.attention_factor,
            "provenance": dataclasses.asdict(self.provenance),
        }

    def to_json(self) -> str:
        """One versioned object; floats are written so that they read back bit for bit."""
        return json.dumps(self.as_document(), indent=2, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all."""
        write_atomically(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> "RescaleFactors":
        """Read a file that `save` wrote.

        Raises:
            FactorsError: not such a file, of a newer version, truncated, or breaking a rule.
        """
        path = Path(path)
        return cls.from_json(read_text(path), str(path))

    @classmethod
    def from_json(cls, text: str, source: str) -> "RescaleFactors":
        """As `load`, from text; `source` is named in errors."""
        document = parse_document(text, source)
        if document["format"] == SET_FORMAT:
            raise FactorsError(
                f"{source} is a factor set, which holds factors for several lengths, but one was asked for: "
                f"read it with FactorSet.load, and choose by length."
            )
        return cls.from_document(document, source)

    @classmethod
    def from_document(cls, document: Mapping[str, Any], source: str) -> "RescaleFactors":
        """As `from_json`, from what was parsed.

        Raises:
            FactorsError: it breaks a rule.
        """
        try:
            parsed = _File.model_validate(document)
            geometry = RopeGeometry(**parsed.geometry.model_dump())
            if geometry.fingerprint() != parsed.geometry_fingerprint:
                raise FactorsError("the geometry was edited and no longer matches its fingerprint.")
            rows = parsed.rescale_factors
            single = bool(rows) and not isinstance(rows[0], list)
            return cls(
                geometry=geometry,
                target_length=parsed.target_length,
                rescale_factors=tuple(tuple(row) for row in ([rows] if single else rows)),  # type: ignore[arg-type]
                num_start_tokens=parsed.num_start_tokens,
                attention_factor=parsed.attention_factor,
                provenance=Provenance(**parsed.provenance.model_dump()),
            )
        except ValidationError as error:
            first = error.errors()[0]
            # pydantic names the branch of a union it tried, e.g. `list[float]`: of no use to a reader.
            where = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
            raise FactorsError(f"{source} is not a valid factors file: {where}: {first['msg']}.") from None
        except (FactorsError, ModelError) as error:
            raise FactorsError(f"{source} is not a valid factors file: {error}") from None


def load_factors(
    path: str | Path, *, geometry: RopeGeometry | None = None, target_length: int | None = None
) -> RescaleFactors:
    """Read a factors file, or the public CSV form (one number a line), which needs to be told the geometry.

    Raises:
        FactorsError: neither of the two, or a CSV without `geometry` and `target_length`.
    """
    text = read_text(Path(path))
    if text.lstrip().startswith(("{", "[")):
        return RescaleFactors.from_json(text, str(path))
    values = _parse_csv(text, str(path))
    if geometry is None or target_length is None:
        raise FactorsError(
            f"{path} is a bare column of numbers, which does not say its model: name the model "
            f"(or theta, rotary dimension and window) and the target length too."
        )
    try:
        return RescaleFactors.single(
            geometry=geometry,
            target_length=target_length,
            rescale_factors=values,
            provenance=Provenance(strategy="csv", base="native"),
        )
    except FactorsError as error:
        raise FactorsError(f"{path}: {error}") from None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Geometry(_Strict):
    head_dim: int
    rotary_dim: int
    rope_theta: float
    original_length: int
    num_layers: int


class _Provenance(_Strict):
    model: str | None
    revision: str | None
    weights_sha256: str | None
    base: Base | None
    strategy: str | None
    seed: int | None
    data_sha256: str | None
    objective: str | None
    objective_value: float | None
    versions: dict[str, str]
    settings: dict[str, Any]


class _File(_Strict):
    """What version 1 holds, checked before anything is believed."""

    format: Literal["ropewalk.factors"]
    version: int
    geometry: _Geometry
    geometry_fingerprint: str
    target_length: int
    rescale_factors: list[float] | list[list[float]]
    num_start_tokens: int
    attention_factor: float
    provenance: _Provenance


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_row(row: tuple[float, ...], num_pairs: int) -> None:
    if len(row) != num_pairs:
        raise FactorsError(f"{len(row)} factors were given, but this geometry has {num_pairs} rotary pairs.")
    for pair, value in enumerate(row):
        if not math.isfinite(value):
            raise FactorsError(f"The factor of pair {pair} is {value}, but must be a finite number.")
        if value < 1:
            raise FactorsError(
                f"The factor of pair {pair} is {value}, but must be at least 1: pairs may only turn slower."
            )


def read_text(path: Path) -> str:
    """A factors file's text, before it is known what it holds.

    Raises:
        FactorsError: missing, too large, binary, or not readable.
    """
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise FactorsError(f"{path} is larger than {LARGEST_FILE_BYTES} bytes, so it is no factors file.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FactorsError(f"{path} does not exist: name a factors file (JSON) or a CSV.") from None
    except UnicodeDecodeError:
        raise FactorsError(f"{path} is binary; factors are read from JSON or CSV text only.") from None
    except OSError as error:
        raise FactorsError(f"{path} can't be read: {error.strerror}.") from None


def parse_document(text: str, source: str) -> dict[str, Any]:
    """The JSON object, once its version is known to be read here; its format is one of `FORMATS`.

    Raises:
        FactorsError: not whole JSON, of another format, or of a newer version.
    """
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise FactorsError(f"{source} is not whole JSON ({error}): make or copy the file again.") from None
    return check_document(document, source)


def check_document(document: Any, source: str) -> dict[str, Any]:
    """As `parse_document`, of parsed JSON."""
    if not isinstance(document, dict) or document.get("format") not in FORMATS:
        raise FactorsError(
            f'{source} is JSON, but not a factors file ("format": "{FORMAT}" is missing); '
            f"`ropewalk factors convert` reads a model's configuration."
        )
    version: Any = document.get("version")
    if _is_whole(version) and version > FORMAT_VERSION:
        raise FactorsError(
            f"{source} has format version {version}, above the {FORMAT_VERSION} known here: update Ropewalk."
        )
    if version != FORMAT_VERSION:
        raise FactorsError(f"{source} has format version {version!r}, but versions are whole numbers from 1.")
    return document


def _parse_csv(text: str, source: str) -> list[float]:
    values = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip().rstrip(",")
        if not entry:
            continue
        try:
            values.append(float(entry))
        except ValueError:
            raise FactorsError(
                f"{source}, line {number}: {entry[:40]!r} is not a number; a CSV has one number a line."
            ) from None
    if not values:
        raise FactorsError(f"{source} is empty; a CSV of factors has one number a line.")
    return values
