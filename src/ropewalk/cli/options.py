"""Options that several commands share, and how their text becomes values."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ropewalk.cli.from_settings import option
from ropewalk.errors import SettingError
from ropewalk.factors.base import Base
from ropewalk.models.settings import ModelSettings
from ropewalk.search.settings import SearchSettings
from ropewalk.text.settings import TextSplit
from ropewalk.units import MOST, parse_length

if TYPE_CHECKING:
    from ropewalk.evaluate.records import FactorsAtLength
    from ropewalk.models.model import Model
    from ropewalk.models.rope_config import RopeDescription
    from ropewalk.text.tokens import DocumentSet

ReadingModeOption = Literal["truncate", "sliding"]

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, a hub name, a .gguf file, or scale-model.")
]
Text = Annotated[str, option(TextSplit, "search")]
NumDocuments = Annotated[int, typer.Option(min=1, max=MOST, help="Number of documents.")]
Seed = Annotated[int, option(SearchSettings, "seed")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout instead of tables.")]
Schemes = Annotated[
    list[str] | None,
    typer.Option(
        "--scheme",
        metavar="NAME",
        help="A closed-form scheme, e.g. yarn or yarn:factor=8,beta_fast=32; give it again for more. "
        "Names: none, pi, ntk, dynamic-ntk, yarn, yarn-paper, llama3, mrrope-uni, mrrope-pro, near-far. "
        "Or package.module:Name, your own function.",
    ),
]
FactorFiles = Annotated[
    list[Path] | None,
    typer.Option("--factors", metavar="FILE", help="A factors file; give it again for more."),
]
BaseOption = Annotated[
    Base,
    typer.Option("--base", help="Factors replace the scaling that the model has, or are multiplied onto it."),
]
Revision = Annotated[str | None, option(ModelSettings, "revision")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model. Read it first.")
]
OriginalLength = Annotated[int | None, option(ModelSettings, "original_length")]
CutDamaged = Annotated[
    bool,
    typer.Option(
        "--cut-damaged",
        help="If a line of the journal is damaged, cut the journal off there and resume from before.",
    ),
]
FullAttention = Annotated[bool, option(ModelSettings, "full_attention")]
Attention = Annotated[str, option(ModelSettings, "attn_implementation")]


def parse_lengths(text: str, original_length: int) -> list[int]:
    """`256,512,8x` as tokens, ascending, each once."""
    return sorted({parse_length(entry, original_length) for entry in split_lengths(text)})


def split_lengths(text: str) -> list[str]:
    """The entries of `256,512,8x`.

    Raises:
        SettingError: there is none.
    """
    entries = [entry for entry in text.split(",") if entry.strip()]
    if not entries:
        raise SettingError("`--lengths` names no length: give tokens, like 256,512,1024.")
    return entries


def parse_target(text: str, original_length: int) -> int:
    """A target length, which must be above the window.

    Raises:
        SettingError: it is not, or not a length at all.
    """
    target = parse_length(text, original_length, "The target length")
    if target <= original_length:
        raise SettingError(
            f"The target length is {target} tokens, but this model already reads {original_length}: "
            f"nothing to extend, give a target above {original_length}."
        )
    return target


def check_early(schemes: list[str] | None, files: list[Path] | None, text: str | None = None) -> None:
    """Find wrong names and files before a model is loaded, which may take minutes.

    Raises:
        RopewalkError: an unknown scheme, an unreadable file, or a missing text.
    """
    from ropewalk.factors.factor_set import FactorSet
    from ropewalk.rope.schemes import parse_scheme

    for scheme in schemes or []:
        parse_scheme(scheme)
    for file in files or []:
        if file.suffix.lower() == ".json" or not file.is_file():
            FactorSet.load(file)
    if text is not None:
        from ropewalk.text.sources import read_documents

        read_documents(text)


def about_documents(documents: "DocumentSet", num_requested: int) -> str:
    """How many documents are read, and why not more."""
    found = len(documents.documents)
    fewer = f" ({num_requested} were requested)" if found < num_requested else ""
    short = f", {documents.num_too_short} shorter ones left out" if documents.num_too_short else ""
    return f"Text: {found} documents of {documents.length} tokens from {documents.source}{fewer}{short}."


def save_file(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all; its folder is made if it is missing.

    Raises:
        SettingError: it can't be written there.
    """
    from ropewalk.store import disk_errors, write_atomically

    with disk_errors(path, SettingError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def factors_by_label(
    loaded: "Model", schemes: list[str] | None, files: list[Path] | None, longest: int, base: Base
) -> "dict[str, FactorsAtLength]":
    """Each given scheme and file as a function from a length to factors; without any, the model as it is.

    If the model has a scaling of its own, the model as configured is always included: `none` removes the
    scaling.

    A scheme without a `factor` takes that of the longest length at every length, `dynamic-ntk` each length's
    own, a factor set the entry of each length. Factors are identified by their label, so a name that is
    given twice counts once.
    """
    from ropewalk.factors.factor_set import load_set
    from ropewalk.report.comparison import base_label, constant, scheme_at_lengths, without_factors

    own = loaded.description.own_under(base)
    description = loaded.description
    as_it_is: dict[str, FactorsAtLength] = {base_label(description): without_factors}
    labelled = as_it_is if description.has_own_scaling else {}
    labelled |= {text: scheme_at_lengths(text, loaded.geometry, longest, own) for text in schemes or []}
    for file in files or []:
        factors = load_set(file, geometry=loaded.geometry, target_length=longest)
        factors.require_geometry(loaded.geometry, loaded.name)
        loaded.warn_if_other_weights(factors.longest, str(file))
        labelled[str(file)] = constant(factors.longest) if factors.is_alone else factors.for_length
    return labelled or as_it_is


def window(description: "RopeDescription", base: Base) -> int:
    """Tokens that the model reads before it is extended: with `as-is`, as far as its own scaling goes."""
    own = description.own_under(base)
    return description.geometry.original_length if own is None else own.target_length
