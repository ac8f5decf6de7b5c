"""The JSON files of factors: writing, reading and checking them.

Two formats share their versions: a factors file (`RescaleFactors`), and a factor set (`FactorSet`), whose
entries are complete factors files. Plain factors are written as version 1, and factors with a near window
as version 2, so that a Ropewalk which does not know the near window refuses them. The public CSV form (one
number per line) is read too.
"""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ropewalk.errors import FactorsError
from ropewalk.store import JsonError, check_envelope, disk_errors, parse_json, read_bounded, write_atomically

FORMAT = "ropewalk.factors"
SET_FORMAT = "ropewalk.factor-set"
FORMATS = (FORMAT, SET_FORMAT)
PLAIN_VERSION, NEAR_FAR_VERSION = 1, 2  # of both formats
LARGEST_FILE_BYTES = 64 * 2**20


class InFile(ABC):
    """A value that is saved as a JSON file."""

    @abstractmethod
    def as_document(self) -> dict[str, Any]:
        """The content of the file, as JSON values."""

    @classmethod
    @abstractmethod
    def from_document(cls, document: Any, source: str) -> Self:
        """As `load`, from parsed JSON; errors name `source`."""

    def to_json(self) -> str:
        """One versioned JSON object; floats are written so that they read back bit for bit."""
        return json.dumps(self.as_document(), indent=2, allow_nan=False) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the file, completely or not at all."""
        write_atomically(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            FactorsError: another format, a newer version, a truncated file, or a value that breaks a rule.
        """
        return cls.from_json(read_text(Path(path)), str(path))

    @classmethod
    def from_json(cls, text: str, source: str) -> Self:
        """As `load`, from text; `source` is named in errors."""
        return cls.from_document(parse_factors_json(text, source), source)


# ---------------------------------------------------------------- content of the files


class Strict(BaseModel):
    """A part of a file: no field is missing, none is extra, and no value is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Geometry(Strict):
    head_dim: int
    rotary_dim: int
    rope_theta: float
    original_length: int
    num_layers: int
    layer_type: str | None = None
    frequency_dim: int | None = None


class _Provenance(Strict):
    model: str | None
    revision: str | None
    weights_sha256: str | None
    base: Literal["native", "as-is"] | None
    strategy: str | None
    seed: int | None
    data_sha256: str | None
    objective: str | None
    objective_value: float | None
    versions: dict[str, str]
    settings: dict[str, Any]


class FactorsFile(Strict):
    """Version 1 of a factors file."""

    format: Literal["ropewalk.factors"]
    version: int
    geometry: _Geometry
    geometry_fingerprint: str
    target_length: int
    rescale_factors: list[float] | list[list[float]]
    num_start_tokens: int
    attention_factor: float
    provenance: _Provenance


class _NearFarFile(FactorsFile):
    """Version 2 of a factors file."""

    near_window: int = Field(ge=1)
    near_attention_factor: float


class Serves(Strict):
    """The lengths that an entry serves, in tokens."""

    first: int = Field(alias="from")
    last: int = Field(alias="to")


class _Entry(Strict):
    serves: Serves
    factors: Any


class SetFile(Strict):
    """Both versions of a factor set; the factors of each entry are a factors file."""

    format: Literal["ropewalk.factor-set"]
    version: int
    entries: list[_Entry]


Schema = TypeVar("Schema", bound=Strict)


def check(schema: type[Schema], document: dict[str, Any]) -> Schema:
    """Validate a document against the schema of its format.

    Raises:
        FactorsError: names the key that breaks the schema, and the reason.
    """
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise FactorsError(f"{_place(first['loc'])}: {first['msg']}.") from None


def _place(steps: tuple[int | str, ...]) -> str:
    # pydantic also names the branch of a union that it tried, e.g. `list[float]`, which is not a key.
    named = [step for step in steps if isinstance(step, int) or "[" not in step]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in named).removeprefix(".")


def check_document(document: Any, source: str) -> dict[str, Any]:
    """Check the format and the version of parsed JSON.

    Returns:
        The document; its format is one of `FORMATS`.

    Raises:
        FactorsError: another format, or a newer version.
    """
    remedy = "name a factors file, or create one from a model's configuration by `ropewalk factors convert`"
    return check_envelope(
        document,
        source,
        FactorsError,
        formats=FORMATS,
        versions=(PLAIN_VERSION, NEAR_FAR_VERSION),
        remedy=remedy,
    )


def check_factors(document: dict[str, Any]) -> FactorsFile:
    """As `check`, for a factors file in the schema of its version."""
    return check(_NearFarFile if document["version"] == NEAR_FAR_VERSION else FactorsFile, document)


def format_version(*, near_far: bool) -> int:
    """The version of a file that has near-far factors, or none."""
    return NEAR_FAR_VERSION if near_far else PLAIN_VERSION


# ---------------------------------------------------------------- reading text


def read_text(path: Path) -> str:
    """The text of a factors file.

    Raises:
        FactorsError: the file is missing, too large, binary, or not readable.
    """
    try:
        with disk_errors(path, FactorsError, action="read", remedy="name a factors file (JSON) or a CSV"):
            return read_bounded(path, LARGEST_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise FactorsError(
            f"{path} is binary, but factors are read from JSON or CSV text: name such a file."
        ) from None


def parse_factors_json(text: str, source: str) -> Any:
    """Parse JSON text, without a check of what it contains.

    Raises:
        FactorsError: the JSON is not complete, has a key twice, or a number or nesting beyond the limits.
    """
    try:
        return parse_json(text)
    except JsonError as error:
        raise FactorsError(f"{source} is not complete JSON ({error}): create the file again.") from None


def parse_csv(text: str, source: str) -> list[float]:
    """Parse the public form: one number per line.

    Raises:
        FactorsError: a line is not a number, or there is none.
    """
    values = []
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip().rstrip(",")
        if not entry:
            continue
        try:
            values.append(float(entry))
        except ValueError:
            raise FactorsError(
                f"{source}, line {number}: {entry[:40]!r} is not a number, but a CSV has one number per "
                f"line: correct the line."
            ) from None
    if not values:
        raise FactorsError(
            f"{source} is empty, but a CSV of factors has one number per line: name another file."
        )
    return values
