"""A comparison that wrong factors would pass is a failure."""

import pytest
import torch
from probing import InProcess
from verified_exports import verified

from ropewalk.export.hf import export_hf
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.engines import EngineOutput
from ropewalk.verify.readings import read_with_ropewalk
from ropewalk.verify.result import Tolerances
from ropewalk.verify.wrong_factors import are_different


class ToTheLastBit(InProcess):
    """An engine without any rounding difference, as transformers is on some processors."""

    def __init__(self, source, factors):
        self.loaded, self.factors = load_model(source), factors

    def run(self, request):
        loaded, (sequence,) = self.loaded, request.sequences
        with loaded.using(None if request.path == loaded.name else self.factors):
            read = read_with_ropewalk(loaded, torch.tensor([sequence]))
        return EngineOutput(
            engine=self.name, version="", logits=[read.logits], nats=[read.nats],
            inv_freq=[None], attention_factors=[None],
        )  # fmt: skip


@pytest.mark.parametrize("to_the_last_bit", [False, True])
def test_a_comparison_that_wrong_factors_would_pass_is_a_failure(
    tiny_model_folder, tmp_path, engine, to_the_last_bit
):
    """At four tokens nearly any factors give nearly these logits."""
    loaded = load_model(tiny_model_folder)
    almost_plain = scheme_factors("pi:factor=1.000001", loaded.geometry, 256)
    factor_set = FactorSet.of([almost_plain])
    export_hf(str(tiny_model_folder), factor_set, tmp_path / "out")
    if to_the_last_bit:
        engine = ToTheLastBit(tiny_model_folder, almost_plain)
    verification = verified(tmp_path / "out", tiny_model_folder, factor_set, engine, tmp_path, lengths=[4])
    wrong = {check.what for check in verification.checks if not check.is_right}
    assert wrong == {"no factors would be noticed"}


def test_factors_that_are_equal_in_float32_are_not_different(tiny_model_folder):
    """Factors computed on another machine may differ in the last bits."""
    one = scheme_factors("yarn:factor=4", load_model(tiny_model_folder).geometry, 256)

    def changed(by):
        return one.replace(rescale_factors=(tuple(by * x for x in one.rescale_factors[0]),))

    assert not are_different(changed(1 + 1e-15), one)
    assert not are_different(one.replace(attention_factor=one.attention_factor * (1 + 1e-15)), one)
    assert are_different(changed(1 + 1e-5), one)
    assert are_different(one.replace(attention_factor=one.attention_factor * (1 + 1e-5)), one)
    assert are_different(one.replace(num_start_tokens=1), one)


@pytest.mark.parametrize(("exported_factors", "detected"), [("right", "yes"), ("no factors", "no")])
def test_wrong_factors_are_detected_token_by_token_if_means_agree(
    tiny_model_folder, tmp_path, engine, exported_factors, detected
):
    """For quantised files only means are judged, and those of a long text may be equal by chance."""
    right = scheme_factors("yarn:factor=4", load_model(tiny_model_folder).geometry, 256)
    plain = right.replace(rescale_factors=((1.0,) * len(right.rescale_factors[0]),), attention_factor=1.0)
    export_hf(
        str(tiny_model_folder),
        FactorSet.of([right if exported_factors == "right" else plain]),
        tmp_path / "out",
    )
    blind = Tolerances(logits=None, nats=10.0)
    verification = verified(
        tmp_path / "out", tiny_model_folder, FactorSet.of([right]), engine, tmp_path, tolerances=blind
    )
    found = {check.what: check.found for check in verification.checks}
    assert found["no factors would be noticed"] == detected
    assert verification.is_right == (detected == "yes")
