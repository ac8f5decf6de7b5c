"""Searched factors compared with the closed-form schemes and with a sliding window.

The baselines are RescaleFactors too, so one call measures all of them on the same documents.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ropewalk.evaluate.intervals import Difference
from ropewalk.evaluate.perplexity import measure_perplexity
from ropewalk.evaluate.records import EvalRecord, FactorsAtLength, OnRecord
from ropewalk.evaluate.shares import ShareDifference
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
MOST_NAMED = 3  # schemes that a sentence lists by name


def without_factors(length: int) -> RescaleFactors | None:
    """Returns None: the model as configured, as a `FactorsAtLength`."""
    return None


def base_label(description: RopeDescription) -> str:
    """Returns the label of the model as configured: `untouched`, or `as configured: yarn 32768`."""
    own = description.own
    if own is not None:
        kind = (own.provenance.strategy or "").removeprefix("own ")
        return f"as configured: {kind} {own.target_length}"
    return "as configured" if description.own_problem else UNTOUCHED


def constant(factors: RescaleFactors) -> FactorsAtLength:
    """Returns a function from any length to these factors; see `RescaleFactors.at_length`."""
    return factors.at_length


def scheme_at_lengths(
    text: str, geometry: RopeGeometry, longest: int, own: RescaleFactors | None = None
) -> FactorsAtLength:
    """Returns a function from a length to a scheme's factors.

    Every scheme has the extension ratio of `longest` at all lengths; `dynamic-ntk` that of each length.
    `near-far` has no factors for lengths within the model's window.

    Args:
        text: see `parse_scheme`.
        longest: tokens.
        own: the model's `base_factors`, which are multiplied by the scheme's. The window of the scheme is
            then their target length, and turns are counted under them.

    Raises:
        SettingError: the scheme or a parameter is unknown.
        FactorsError: `near-far` with `own`.
    """
    spec = parse_scheme(text)
    follows_length = spec.name == "dynamic-ntk"
    geometry = geometry if own is None else own.as_window()

    def at(length: int) -> RescaleFactors | None:
        factors = scheme_factors(spec, geometry, length if follows_length else longest)
        return factors.at_length(length) if own is None else factors.compose(own)

    at(longest)  # raises its errors before the first measurement
    return at


def closed_forms(
    geometry: RopeGeometry, longest: int, own: RescaleFactors | None = None
) -> dict[str, FactorsAtLength]:
    """Returns all schemes of `CLOSED_FORMS`, as the argument `factors` of `measure_perplexity`."""
    return {text: scheme_at_lengths(text, geometry, longest, own) for text in CLOSED_FORMS}


def measure_sliding_window(
    loaded: Model,
    documents: DocumentSet,
    lengths: Sequence[int],
    *,
    on_record: OnRecord | None = None,
) -> list[EvalRecord]:
    """Measures the model without extension, with its trained window sliding over the text."""
    return measure_perplexity(
        loaded,
        documents,
        lengths,
        factors={SLIDING: without_factors},
        mode="sliding",
        stride=min(SLIDING_STRIDE, loaded.geometry.original_length // 4),
        on_record=on_record,
    )


def best_closed_form(records: Iterable[EvalRecord], *, length: int) -> EvalRecord | None:
    """Returns the record of the closed-form scheme with the lowest perplexity at `length`; None if none."""
    known = _perplexities(records, length)
    return min((r for r in known if r.factors in CLOSED_FORMS), key=lambda r: r.value, default=None)


def _perplexities(records: Iterable[EvalRecord], length: int) -> list[EvalRecord]:
    return [r for r in records if r.metric == "perplexity" and r.length == length]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """The difference between searched factors and one closed-form scheme on one set of documents.

    Attributes:
        documents: `search`, `stop` (validation) or `report` (test).
        searched, closed_form: perplexities.
        scheme: the closed-form scheme.
        difference: searched - closed form, paired by document; below 0 if searched factors are better.
    """

    documents: Role
    searched: float
    closed_form: float
    scheme: str
    difference: Difference

    @property
    def n(self) -> int:
        """The number of documents."""
        return self.difference.n

    @property
    def nats(self) -> float:
        """Nats per token, below 0 if searched factors are better."""
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
    """Compares searched factors with the best closed-form scheme on every set of documents.

    Args:
        texts: the documents by role.
        factors: by label, with the searched factors and every closed-form scheme.
        known: records of one of the sets, which is not measured again; the best closed-form scheme is chosen
            on it.

    Returns:
        The gap on each set, and the records of the new measurements.
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
    """Returns every other perplexity on the same documents and length, with its difference to `label`'s.

    The difference is `label`'s - the other's, paired by document: below 0 if `label` is lower.
    """
    records = [record for record in records if record.metric == "perplexity"]
    ours = [record for record in records if record.factors == label]
    return [
        (other, difference)
        for other in records
        for mine in ours
        if other.factors != label and (difference := mine.difference(other)) is not None
    ]


def share_differences_to(
    records: Iterable[EvalRecord], label: str
) -> list[tuple[EvalRecord, ShareDifference]]:
    """Returns every other record about the same questions, with the difference of `label`'s share from its.

    The difference is `label`'s - the other's, paired by question: above 0 if `label` finds more.
    """
    records = list(records)
    ours = [record for record in records if record.factors == label]
    return [
        (other, difference)
        for other in records
        for mine in ours
        if other.factors != label and (difference := mine.share_difference(other)) is not None
    ]


def comparison_sentence(records: Iterable[EvalRecord], *, length: int, documents: str) -> str:
    """Returns a sentence that says whether searched factors beat every closed-form scheme at `length`.

    They beat a scheme if the whole interval of the paired difference is below 0. On the search documents no
    scheme counts as beaten, because the factors were fitted to them.

    Args:
        records: perplexities of one set of documents, with `searched` and at least one closed-form scheme.
        length: tokens.
        documents: the name of the set, e.g. "held-out".
    """
    here = _perplexities(records, length)
    (ours,) = [record for record in here if record.factors == SEARCHED]
    pairs = [pair for pair in differences_to(here, SEARCHED) if pair[0].factors in CLOSED_FORMS]
    assert pairs, "no closed form was measured on these documents"
    where = f"on the {ours.n} {documents} documents at {length} tokens"
    if documents == "search":
        return (
            f"Searched factors have perplexity {ours.value:.3f} {where}, {_against_best(pairs)}. They were "
            f"fitted to these documents, so this is not a comparison: measure on others."
        )
    counted = "" if len(pairs) == len(CLOSED_FORMS) else f" of the {len(pairs)} measured"
    forms = f"every closed-form scheme{counted}"
    behind = [pair for pair in pairs if pair[1].is_lower is False]
    undecided = [pair for pair in pairs if pair[1].is_lower is None]
    if behind:
        conclusion = f"Decided: searched factors do NOT beat {forms}"
    elif undecided:
        conclusion = f"Undecided against {_names(undecided)}: searched factors are not known to beat {forms}"
    else:
        conclusion = f"Decided: searched factors beat {forms}"
    best = _against_best(behind or undecided or pairs)
    return f"{conclusion} {where}. They have perplexity {ours.value:.3f}, {best}."


def _names(pairs: Sequence[tuple[EvalRecord, Difference]]) -> str:
    if len(pairs) > MOST_NAMED:
        return f"{len(pairs)} schemes"
    return ", ".join(record.factors for record, _ in pairs)


def _against_best(pairs: Sequence[tuple[EvalRecord, Difference]]) -> str:
    record, difference = min(pairs, key=lambda pair: pair[0].value)
    return f"{record.factors} {record.value:.3f}: {difference} paired by document"


def sliding_window_remark(records: Iterable[EvalRecord], *, length: int) -> str:
    """Returns a sentence that compares searched factors with the trained window sliding over the text."""
    values = {r.factors: r for r in _perplexities(records, length)}
    ours, sliding = values[SEARCHED], values[SLIDING]
    found = ours.difference(sliding)
    difference = "" if found is None else f"; searched factors have {found} of it: {found.decision}"
    return (
        f"A sliding window of {sliding.window} tokens (stride {sliding.stride}) has {sliding.value:.3f} "
        f"there{difference}. It never reads more than {sliding.window} tokens, so it can't find anything "
        f"further back."
    )


def perplexity_curves(records: Iterable[EvalRecord]) -> list[Curve]:
    """Returns perplexity against length, one curve per label; without `none` if there is `untouched`."""
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
    """Returns rescale factors by pair: one curve per label, or per layer if factors are per layer."""
    curves = []
    for label, entry in factors.items():
        for layer_index, row in enumerate(entry.rescale_factors):
            name = f"{label}, layer {layer_index}" if entry.per_layer else label
            curves.append(Curve(label=name, x=range(len(row)), y=row))
    return curves
