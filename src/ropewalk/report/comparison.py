"""Searched factors beside everything that a user could do instead, and what came of it in words.

The baselines are RescaleFactors like ours, so all are measured by the same call on the same documents.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ropewalk.evaluate.intervals import Difference
from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.models.rope_config import RopeDescription
from ropewalk.report.figures import SEARCHED, Curve
from ropewalk.rope.schemes import CLOSED_FORMS, parse_scheme, scheme_factors
from ropewalk.text.splits import Role
from ropewalk.text.tokens import DocumentSet

UNTOUCHED = "untouched"
SLIDING = "sliding window"
SLIDING_STRIDE = 64
MOST_NAMED = 3  # schemes in a sentence


def untouched(length: int) -> RescaleFactors | None:
    """The model as it stands, with the scaling that its configuration has."""
    return None


def base_label(description: RopeDescription) -> str:
    """How the model as it stands is called: `untouched`, or as in `as configured: yarn 32768`."""
    own = description.own
    if own is not None:
        kind = (own.provenance.strategy or "").removeprefix("own ")
        return f"as configured: {kind} {own.target_length}"
    return "as configured" if description.own_problem else UNTOUCHED


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
    loaded: Model,
    documents: DocumentSet,
    lengths: Sequence[int],
    *,
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
        on_record=on_record,
    )


def best_closed_form(records: Iterable[EvalRecord], *, length: int) -> EvalRecord | None:
    """The closed form of the lowest perplexity at `length`; None if none was measured."""
    known = _perplexities(records, length)
    return min((r for r in known if r.factors in CLOSED_FORMS), key=lambda r: r.value, default=None)


def _perplexities(records: Iterable[EvalRecord], length: int) -> list[EvalRecord]:
    return [r for r in records if r.metric == "perplexity" and r.length == length]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far searched factors are ahead of one closed form on one set of documents.

    Attributes:
        documents: which set: `search`, `stop` or `report`.
        searched, closed_form: perplexities.
        scheme: the closed form.
        difference: paired by document, below 0 where searched factors are ahead.
    """

    documents: Role
    searched: float
    closed_form: float
    scheme: str
    difference: Difference

    @property
    def n(self) -> int:
        """Documents in the set."""
        return self.difference.n

    @property
    def nats(self) -> float:
        """Nats per token, negative where searched factors are ahead."""
        return self.difference.nats

    def as_json(self) -> dict[str, Any]:
        values = {key: value for key, value in asdict(self).items() if key != "difference"}
        return {**values, **self.difference.as_json()}


def measure_gaps(
    loaded: Model,
    texts: Mapping[Role, DocumentSet],
    factors: Mapping[str, FactorsAtLength],
    *,
    known: Sequence[EvalRecord],
    length: int,
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
            found = measure_perplexity(loaded, documents, [length], factors=pair)
            here = [replace(record, documents=role) for record in found]
            measured += here
        by_label = {record.factors: record for record in here if record.metric == "perplexity"}
        ours, theirs = by_label[SEARCHED], by_label[best.factors]
        difference = ours.difference(theirs)
        assert difference is not None, "both were measured on these documents"
        gap = Gap(
            documents=role,
            searched=ours.value,
            closed_form=theirs.value,
            scheme=best.factors,
            difference=difference,
        )
        gaps.append(gap)
    return gaps, measured


def differences_to(records: Iterable[EvalRecord], label: str) -> list[tuple[EvalRecord, Difference]]:
    """Every perplexity beside that of `label` on the same documents at the same length, paired by document.

    The differences are `label`'s - the other's: below 0 where `label` is lower.
    """
    records = [record for record in records if record.metric == "perplexity"]
    ours = [record for record in records if record.factors == label]
    return [
        (other, difference)
        for other in records
        for mine in ours
        if other.factors != label and (difference := mine.difference(other)) is not None
    ]


def verdict(records: Iterable[EvalRecord], *, length: int, documents: str) -> str:
    """Whether searched factors beat every closed form at `length`, in plain words, whichever way it went.

    They beat a scheme only where the whole interval of the paired difference is on their side. On the
    documents that were searched on nothing is beaten, for the factors were fitted to these.

    Args:
        records: perplexities; at least `searched` and one closed form at `length`.
        documents: which documents they were measured on, e.g. "held-out".
    """
    here = _perplexities(records, length)
    (ours,) = [record for record in here if record.factors == SEARCHED]
    pairs = [pair for pair in differences_to(here, SEARCHED) if pair[0].factors in CLOSED_FORMS]
    assert pairs, "no closed form was measured on these documents"
    where = f"on the {ours.n} {documents} documents at {length} tokens"
    if documents == "search":
        return (
            f"Searched factors have perplexity {ours.value:.3f} {where}, {_beside_best(pairs)}. They were "
            f"fitted to these documents, so this compares nothing: measure on others."
        )
    counted = "" if len(pairs) == len(CLOSED_FORMS) else f" of the {len(pairs)} measured"
    forms = f"every closed-form scheme{counted}"
    behind = [pair for pair in pairs if pair[1].is_lower is False]
    undecided = [pair for pair in pairs if pair[1].is_lower is None]
    if behind:
        said = f"Decided: searched factors do NOT beat {forms}"
    elif undecided:
        said = f"Undecided against {_names(undecided)}: searched factors are not known to beat {forms}"
    else:
        said = f"Decided: searched factors beat {forms}"
    beside = _beside_best(behind or undecided or pairs)
    return f"{said} {where}. They have perplexity {ours.value:.3f}, {beside}."


def _names(pairs: Sequence[tuple[EvalRecord, Difference]]) -> str:
    if len(pairs) > MOST_NAMED:
        return f"{len(pairs)} schemes"
    return ", ".join(record.factors for record, _ in pairs)


def _beside_best(pairs: Sequence[tuple[EvalRecord, Difference]]) -> str:
    record, difference = min(pairs, key=lambda pair: pair[0].value)
    return f"{record.factors} {record.value:.3f}: {difference} paired by document"


def sliding_window_remark(records: Iterable[EvalRecord], *, length: int) -> str:
    """What the search is worth against no extension at all: the trained window, slid over the text."""
    values = {r.factors: r for r in _perplexities(records, length)}
    ours, sliding = values[SEARCHED], values[SLIDING]
    found = ours.difference(sliding)
    beside = "" if found is None else f", where searched factors have {found}: {found.decision}"
    return (
        f"A window of {sliding.window} tokens that slides (stride {sliding.stride}) has {sliding.value:.3f} "
        f"there{beside}; but it never sees more than {sliding.window} tokens, so it finds nothing that lies "
        f"further back."
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
