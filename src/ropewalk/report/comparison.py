"""Searched factors beside everything that a user could do instead, and what came of it in words.

The baselines are RescaleFactors like ours, so all are measured by the same call on the same documents.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord, Role
from ropewalk.factors import RescaleFactors
from ropewalk.geometry import RopeGeometry
from ropewalk.models.load import LoadedModel
from ropewalk.report.figures import SEARCHED, Curve
from ropewalk.rope.schemes import CLOSED_FORMS, parse_scheme, scheme_factors
from ropewalk.text.tokens import DocumentSet

UNTOUCHED = "untouched"
SLIDING = "sliding window"
SLIDING_STRIDE = 64


def untouched(length: int) -> RescaleFactors | None:
    """The model as it stands, with the scaling that it carries."""
    return None


def constant(factors: RescaleFactors) -> FactorsAtLength:
    """The same factors at every length."""
    return lambda length: factors


def scheme_at_lengths(
    text: str, geometry: RopeGeometry, longest: int, own: RescaleFactors | None = None
) -> FactorsAtLength:
    """A scheme with the ratio of `longest` at every length; `dynamic-ntk` takes each length's own.

    Args:
        text: as `parse_scheme` reads it.
        own: a scaling that the scheme is multiplied onto; the window is then what it reaches, and what a ramp
            is laid out by are the turns that pairs made in it.

    Raises:
        SettingError: no such scheme or parameter.
    """
    spec = parse_scheme(text)
    follows_length = spec.name == "dynamic-ntk"
    geometry = geometry if own is None else own.as_window()

    def at(length: int) -> RescaleFactors:
        factors = scheme_factors(spec, geometry, length if follows_length else longest)
        return factors if own is None else factors.compose(own)

    return at


def closed_forms(
    geometry: RopeGeometry, longest: int, own: RescaleFactors | None = None
) -> dict[str, FactorsAtLength]:
    """Every closed form of `CLOSED_FORMS`, as `measure_perplexity` takes them."""
    return {text: scheme_at_lengths(text, geometry, longest, own) for text in CLOSED_FORMS}


def measure_sliding_window(
    loaded: LoadedModel,
    documents: DocumentSet,
    lengths: Sequence[int],
    *,
    seed: int,
    on_record: OnRecord | None = None,
) -> list[EvalRecord]:
    """What a user would do without any extension: slide the trained window over the text."""
    return measure_perplexity(
        loaded,
        documents,
        lengths,
        factors={SLIDING: untouched},
        mode="sliding",
        stride=min(SLIDING_STRIDE, loaded.geometry.original_length // 4),
        seed=seed,
        on_record=on_record,
    )


def best_closed_form(records: Iterable[EvalRecord], *, length: int) -> EvalRecord | None:
    """The closed form of the lowest perplexity at `length`; None if none was measured."""
    known = [r for r in records if r.metric == "perplexity" and r.length == length]
    return min((r for r in known if r.factors in CLOSED_FORMS), key=lambda r: r.value, default=None)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far searched factors are ahead of one closed form on one set of documents.

    Attributes:
        documents: which set: `search`, `stop` or `report`.
        n: documents in it.
        searched, closed_form: perplexities.
        scheme: the closed form.
    """

    documents: Role
    n: int
    searched: float
    closed_form: float
    scheme: str

    @property
    def nats(self) -> float:
        """Nats a token, negative where searched factors are ahead."""
        return math.log(self.searched / self.closed_form)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "nats": self.nats}


def measure_gaps(
    loaded: LoadedModel,
    texts: Mapping[Role, DocumentSet],
    factors: Mapping[str, FactorsAtLength],
    *,
    known: Sequence[EvalRecord],
    length: int,
    seed: int = 0,
) -> tuple[list[Gap], list[EvalRecord]]:
    """Searched factors beside the best closed form on every set of documents, and what was measured for it.

    Args:
        texts: the sets by their role.
        factors: by label; searched factors and every closed form among them.
        known: measured before, on one of the sets; that set is not measured again, and its best closed form
            is the one that is compared with.
    """
    best = best_closed_form(known, length=length)
    if best is None or all(record.factors != SEARCHED for record in known):
        return [], []
    pair = {label: factors[label] for label in (best.factors, SEARCHED)}
    gaps, measured = [], []
    for role, documents in texts.items():
        here = [r for r in known if r.documents == role and r.length == length and r.factors in pair]
        if not here:
            found = measure_perplexity(loaded, documents, [length], factors=pair, seed=seed)
            here = [replace(record, documents=role) for record in found]
            measured += here
        values = {record.factors: record.value for record in here}
        gap = Gap(
            documents=role,
            n=here[0].n,
            searched=values[SEARCHED],
            closed_form=values[best.factors],
            scheme=best.factors,
        )
        gaps.append(gap)
    return gaps, measured


def verdict(records: Iterable[EvalRecord], *, length: int, documents: str) -> str:
    """Whether searched factors beat every closed form at `length`, in plain words, whichever way it went.

    Args:
        records: perplexities; at least `searched` and one closed form at `length`.
        documents: which documents they were measured on, e.g. "held-out".
    """
    records = list(records)
    values = {r.factors: r for r in records if r.metric == "perplexity" and r.length == length}
    ours, best = values[SEARCHED], best_closed_form(records, length=length)
    assert best is not None, "no closed form was measured"
    difference = 100 * (best.value / ours.value - 1)
    where = f"{ours.n} {documents} documents at {length} tokens"
    if ours.value < best.value:
        return (
            f"Searched factors beat every closed-form scheme on the {where}: perplexity {ours.value:.3f}; "
            f"the best of them, {best.factors}, has {best.value:.3f}, {difference:.1f}% more."
        )
    return (
        f"Searched factors do NOT beat every closed-form scheme on the {where}: perplexity {ours.value:.3f}, "
        f"while {best.factors} has {best.value:.3f}, {-difference:.1f}% less."
    )


def sliding_window_remark(records: Iterable[EvalRecord], *, length: int) -> str:
    """What the search is worth against no extension at all: the trained window, slid over the text."""
    values = {r.factors: r for r in records if r.metric == "perplexity" and r.length == length}
    ours, sliding = values[SEARCHED], values[SLIDING]
    relation = "below" if sliding.value < ours.value else "not below"
    return (
        f"A window of {sliding.window} tokens that slides (stride {sliding.stride}) has {sliding.value:.3f} "
        f"there, {relation} searched factors; but it never sees more than {sliding.window} tokens, so it "
        f"finds nothing that lies further back."
    )


def perplexity_curves(records: Iterable[EvalRecord]) -> list[Curve]:
    """Perplexity against length, a curve a label; `none` only where there is no `untouched`."""
    by_label: dict[str, list[EvalRecord]] = {}
    for record in records:
        if record.metric == "perplexity":
            by_label.setdefault(record.factors, []).append(record)
    if UNTOUCHED in by_label:
        by_label.pop("none", None)
    return [
        _perplexity_curve(label, sorted(rows, key=lambda r: r.length)) for label, rows in by_label.items()
    ]


def _perplexity_curve(label: str, rows: Sequence[EvalRecord]) -> Curve:
    bounds = [(row.low, row.high) for row in rows if row.low is not None and row.high is not None]
    whole = len(bounds) == len(rows)
    return Curve(
        label=label,
        x=[row.length for row in rows],
        y=[row.value for row in rows],
        low=[low for low, _ in bounds] if whole else (),
        high=[high for _, high in bounds] if whole else (),
    )


def factor_curves(factors: dict[str, RescaleFactors]) -> list[Curve]:
    """Rescale factors by pair, a curve a label, and one a layer where they differ between layers."""
    curves = []
    for label, entry in factors.items():
        for layer_index, row in enumerate(entry.rescale_factors):
            name = f"{label}, layer {layer_index}" if entry.per_layer else label
            curves.append(Curve(label=name, x=range(len(row)), y=row))
    return curves
