"""`verify` passes right exports and catches every planted fault, with the real transformers."""

import dataclasses

import pytest
from probing import InProcess
from verified_exports import exported, verified

from ropewalk.errors import EngineError
from ropewalk.testing.planted_faults import faults
from ropewalk.verify.engines.transformers import transformers_4_engine


@pytest.mark.parametrize("needs", ["", "switching", "folded"])
def test_what_is_right_passes(tiny_model_folder, tmp_path, engine, needs):
    folder, factor_set = exported(tiny_model_folder, tmp_path, needs)
    verification = verified(folder, tiny_model_folder, factor_set, engine, tmp_path)
    assert verification.is_right, [check for check in verification.checks if not check.is_right]
    looked_at = {check.what for check in verification.checks}
    assert {"frequencies", "attention factor", "logits", "nats per token", "config.json"} <= looked_at
    assert {check.length for check in verification.checks} >= {16, 64, 65, 128, 256}


@pytest.mark.parametrize("fault", faults(), ids=lambda fault: fault.name)
def test_every_planted_fault_is_caught(tiny_model_folder, partial_folder, tmp_path, engine, fault):
    source = partial_folder if fault.needs == "partial" else tiny_model_folder
    folder, factor_set = exported(source, tmp_path, fault.needs)
    fault.plant(folder)
    verification = verified(folder, source, factor_set, engine, tmp_path)
    assert not verification.is_right


ENGINE_SEES = {
    "factors dropped", "theta lost", "attention factor missing", "attention factor applied twice",
    "pairs in reverse order", "factors multiply instead of dividing", "sets swapped",
    "long set in both lists", "threshold one token early", "threshold one token late", "partial rotary lost",
    "attention factor folded twice", "another model's weights",
}  # fmt: skip


@pytest.mark.parametrize(
    "fault", [fault for fault in faults() if fault.name in ENGINE_SEES], ids=lambda fault: fault.name
)
def test_logits_and_nll_alone_catch_them(tiny_model_folder, partial_folder, tmp_path, engine, fault):
    """Some engines show no frequencies, and some files have no configuration."""
    source = partial_folder if fault.needs == "partial" else tiny_model_folder
    folder, factor_set = exported(source, tmp_path, fault.needs)
    fault.plant(folder)
    verification = verified(folder, source, factor_set, engine, tmp_path)
    wrong = {check.what for check in verification.checks if not check.is_right}
    assert wrong & {"logits", "nats per token", "engine"}


class ReadsOnly(InProcess):
    """An engine that fails at every other path."""

    def __init__(self, *paths):
        super().__init__()
        self.paths = paths

    def run(self, request):
        if request.path not in self.paths:
            raise EngineError("FP8 needs a package that is not here")
        return super().run(request)


def test_an_engine_that_can_not_read_the_base_model_is_an_error(tiny_model_folder, tmp_path):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    with pytest.raises(EngineError, match="FP8"):
        verified(folder, tiny_model_folder, factor_set, ReadsOnly(), tmp_path)


def test_an_export_that_the_engine_can_not_read_is_wrong(tiny_model_folder, tmp_path):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    engine = ReadsOnly(str(tmp_path / "base-out"))
    verification = verified(folder, tiny_model_folder, factor_set, engine, tmp_path)
    assert [check.what for check in verification.checks if not check.is_right] == ["engine"]


@pytest.mark.engine("transformers4")
@pytest.mark.parametrize("needs", ["", "switching"])
def test_transformers_4_computes_the_same(tiny_model_folder, tmp_path, needs):
    folder, factor_set = exported(tiny_model_folder, tmp_path, needs)
    verification = verified(folder, tiny_model_folder, factor_set, transformers_4_engine(), tmp_path)
    assert verification.version.startswith("4.")
    assert verification.is_right, [check for check in verification.checks if not check.is_right]


class OnePairFaster(InProcess):
    """An engine that reports another frequency for one pair, and computes the rest correctly."""

    def run(self, request):
        output = super().run(request)
        inv_freq = [None if one is None else one.clone() for one in output.inv_freq]
        for one in inv_freq:
            if one is not None:
                one[-1] *= 1.01
        return dataclasses.replace(output, inv_freq=inv_freq)


def test_one_wrong_frequency_among_right_ones_is_noticed(tiny_model_folder, tmp_path):
    folder, factor_set = exported(tiny_model_folder, tmp_path, "")
    verification = verified(folder, tiny_model_folder, factor_set, OnePairFaster(), tmp_path)
    assert {check.what for check in verification.checks if not check.is_right} == {"frequencies"}
