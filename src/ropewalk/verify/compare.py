"""Whether an engine, given an export, computes what Ropewalk computes.

    the export         ── engine ──> logits, nats, frequencies ─┐
    MODEL + factor set ── Ropewalk ──> logits, nats ────────────┴─ difference ─┐
    the base MODEL     ── the same engine, and Ropewalk ────────── difference ─┴─ only the excess is judged

The comparison itself is tested too: the engine's output is also compared with Ropewalk's output for wrong
factors (`wrong_factors`). If wrong factors would pass, the verification fails too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ropewalk.errors import EngineError
from ropewalk.export import ExportMode, Served
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import Model
from ropewalk.verify.cases import Case, make_cases, require_lengths
from ropewalk.verify.engines import Engine
from ropewalk.verify.export_config import check_configuration
from ropewalk.verify.readings import (
    Distance,
    Reading,
    are_logits_judged,
    read_with_engine,
    read_with_ropewalk,
)
from ropewalk.verify.result import FLOAT32, Check, Tolerances, VerificationResult
from ropewalk.verify.wrong_factors import WrongFactorDetector

FREQUENCY_LIMIT = 1e-5  # relative: engines compute theta^(2i/d) in float32
ATTENTION_LIMIT = 1e-6  # relative


@dataclass(frozen=True, kw_only=True)
class ExportUnderTest:
    """An export, and what an engine should compute from it.

    Attributes:
        path: the export.
        base: the base model in the form that the engine reads.
        served: the factors that the engine should use.
        stated: the factors as the export states them: with the engines' attention factor, if Ropewalk's is
            folded into the weights.
        tolerances: how far engine and Ropewalk may differ.
    """

    path: str
    base: str
    served: Served
    stated: Served
    tolerances: Tolerances = FLOAT32

    @classmethod
    def of(
        cls,
        path: Path,
        base: str,
        factor_set: FactorSet,
        *,
        mode: ExportMode,
        folded_for: float | None = None,
        tolerances: Tolerances = FLOAT32,
    ) -> "ExportUnderTest":
        """From a factor set and the choices of the export.

        Args:
            folded_for: the attention factor of engines, if the export's weights are folded for it.
        """
        served = Served.of(factor_set, mode)
        stated = served if folded_for is None else served.with_attention_factor(folded_for)
        return cls(path=str(path), base=base, served=served, stated=stated, tolerances=tolerances)


def verify(
    export: ExportUnderTest,
    loaded: Model,
    engine: Engine,
    ids: Sequence[int],
    lengths: Sequence[int],
    on_progress: Callable[[str], None] | None = None,
) -> VerificationResult:
    """Load an export with its engine and compare it with Ropewalk.

    Args:
        loaded: MODEL, in float32.
        ids: a text of at least the longest length.
        lengths: tokens.
        on_progress: gets a line of text before each slow step.

    Raises:
        MissingEngineError: the engine is not installed.
        EngineError: the engine can't read the base model, so that nothing can be compared.
        ExportError: the engine's process was killed.
        SettingError: a length is out of range.
    """
    show = on_progress or (lambda _message: None)
    require_lengths(lengths, export.served, len(ids))
    cases = make_cases(export.served, lengths, engine)
    version = engine.version()
    # The base model first: if the engine can't read it, a failure says nothing about the export.
    show(f"{engine.name} {version} reads the base model")
    base_readings = _read_base_model(engine, export, ids, cases)
    show(f"{engine.name} {version} reads the export")
    try:
        readings = read_with_engine(engine, export.path, ids, cases)
    except EngineError as error:
        checks = [Check(what="engine", is_right=False, found=str(error))]
    else:
        checks = _compare_all(export, loaded, ids, cases, readings, base_readings, show)
    if Path(export.path).is_dir():
        checks.append(check_configuration(Path(export.path), export.stated))
    return VerificationResult(
        engine=engine.name, version=version, path=export.path, served=export.served, checks=tuple(checks)
    )


def _read_base_model(
    engine: Engine, export: ExportUnderTest, ids: Sequence[int], cases: Sequence[Case]
) -> list[Reading]:
    try:
        return read_with_engine(engine, export.base, ids, cases)
    except EngineError as error:
        raise EngineError(
            f"{engine.name} does not read the base model, so {export.path} can't be verified with it: {error}"
        ) from None


def _compare_all(
    export: ExportUnderTest,
    loaded: Model,
    ids: Sequence[int],
    cases: Sequence[Case],
    readings: Sequence[Reading],
    base_readings: Sequence[Reading],
    show: Callable[[str], None],
) -> list[Check]:
    checks: list[Check] = []
    detector = WrongFactorDetector(export.served, export.tolerances)
    for case, reading, base_reading in zip(cases, readings, base_readings, strict=True):
        show(f"Ropewalk reads {case.length} tokens")
        text = torch.tensor([list(ids[: case.length])])
        with loaded.using(case.factors):
            ours = read_with_ropewalk(loaded, text)
        base = Distance.between(base_reading, read_with_ropewalk(loaded, text))
        checks += _compare(case, export, reading, ours, base)
        detector.compare(case, reading, ours, base, loaded, text)
    return checks + detector.checks()


def _compare(
    case: Case, export: ExportUnderTest, reading: Reading, ours: Reading, base: Distance
) -> list[Check]:
    tolerances, length = export.tolerances, case.length
    checks = []
    if reading.inv_freq is not None:
        checks.append(_check_frequencies(case, reading.inv_freq))
    if reading.attention_factor is not None:
        expected = export.stated.for_length(case.deciding_length).attention_factor
        difference = abs(reading.attention_factor / expected - 1)
        checks.append(Check.of_difference("attention factor", length, difference, ATTENTION_LIMIT))
    extra = Distance.between(reading, ours).beyond(base)
    if tolerances.logits is not None and are_logits_judged(tolerances, length):
        checks.append(
            Check.of_difference("logits", length, extra.logits, tolerances.logits, base=base.logits)
        )
    checks.append(Check.of_difference("nats per token", length, extra.nats, tolerances.nats, base=base.nats))
    return checks


def _check_frequencies(case: Case, inv_freq: Tensor) -> Check:
    """Compare the engine's frequencies pair by pair."""
    factors = case.factors
    expected = torch.from_numpy(factors.geometry.inverse_frequencies() / factors.array()[0])
    if inv_freq.shape != expected.shape:
        found = f"{len(inv_freq)} pairs, not {len(expected)}"
        return Check(what="frequencies", length=case.length, found=found, is_right=False)
    difference = float((inv_freq / expected - 1).abs().max())
    return Check.of_difference("frequencies", case.length, difference, FREQUENCY_LIMIT)
