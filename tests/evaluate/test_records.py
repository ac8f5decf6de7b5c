import json

import pytest

from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.records import EvalRecord, found_by
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance, RescaleFactors

# As version 0.1.0 wrote them.
OLD_LINE = """{"metric": "perplexity", "value": 14.8, "length": 256, "factors": "untouched", "n": 10,
"low": 11.4, "high": 19.1, "seed": 0, "seconds": 0.2, "model": "scale-model", "where": {"device": "cpu"},
"mode": "truncate", "nll_sum_nats": 6874.9, "num_tokens": 2550, "nll_by_position": [{"start": 1, "stop": 17,
"mean_nats": 4.2}], "source": "stdlib:held-out", "data_sha256": "7d49", "documents": "report"}"""


def record(**changes: object) -> EvalRecord:
    values: dict[str, object] = {
        "metric": "passkey",
        "value": 0.5,
        "length": 256,
        "factors": "yarn",
        "n": 2,
        "low": None,
        "high": None,
        "seed": 0,
        "seconds": 1.0,
        "model": "tiny",
    }
    return EvalRecord(**values | changes)  # type: ignore[arg-type]


def test_unknown_bounds_are_null_and_the_rest_is_left_out() -> None:
    written = json.loads(json.dumps(record().as_json(), allow_nan=False))

    assert written["low"] is None
    assert written["high"] is None
    assert "nll_sum_nats" not in written
    assert "stride" not in written


def test_what_there_is_is_written() -> None:
    written = record(
        found=1, by_depth=({"depth": 0.0, "n": 2, "found": 1},), where={"revision": None}
    ).as_json()

    assert written["by_depth"] == [{"depth": 0.0, "n": 2, "found": 1}]
    assert written["where"] == {"revision": None}
    assert json.loads(json.dumps(written)) == written


def test_sums_of_each_document_and_the_run_are_read_back() -> None:
    made = record(
        metric="perplexity", by_document=(NllSum(nll_sum_nats=3.5, num_tokens=2),), run_id="1234",
        strategy="gradient", search_seed=3, budget=27,
    )  # fmt: skip
    written = json.loads(json.dumps(made.as_json()))
    assert written["by_document"] == [{"nll_sum_nats": 3.5, "num_tokens": 2}]
    assert EvalRecord.from_json(written) == made


def test_a_record_of_an_earlier_version_is_read() -> None:
    old = EvalRecord.from_json(json.loads(OLD_LINE))
    assert (old.value, old.by_document, old.run_id) == (14.8, None, None)
    difference = old.difference(EvalRecord.from_json({**json.loads(OLD_LINE), "value": 14.0}))
    assert difference is not None
    assert (difference.low, difference.is_lower) == (None, None)


def test_a_metric_of_an_earlier_version_has_its_new_name() -> None:
    old = EvalRecord.from_json({**json.loads(OLD_LINE), "metric": "nll_rise"})
    assert old.metric == old.as_json()["metric"] == "nll_increase"


@pytest.mark.parametrize(
    "change",
    [
        {"metric": None},
        {"metric": ["nll_rise"]},
        {"value": "high"},
        {"n": None},
        {"by_document": [3.5]},
        {"where": []},
    ],
)
def test_a_field_of_another_type_is_no_record(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        EvalRecord.from_json({**json.loads(OLD_LINE), **change})


def test_a_bound_beyond_a_float_is_null() -> None:
    assert record(low=5.0, high=float("inf")).as_json()["high"] is None


def test_records_name_the_search_that_found_the_factors() -> None:
    geometry = RopeGeometry(head_dim=4, rotary_dim=4, rope_theta=100.0, original_length=64, num_layers=1)
    settings = {"run_id": "1234", "budget": 27}
    made = Provenance(strategy="gradient", seed=3, settings=settings)
    factors = RescaleFactors.single(
        geometry=geometry, target_length=128, rescale_factors=[1.0, 2.0], provenance=made
    )
    assert found_by(factors) == {"run_id": "1234", "strategy": "gradient", "search_seed": 3, "budget": 27}
    assert found_by(factors.replace(provenance=Provenance(strategy="yarn"))) == {}
    assert found_by(None) == {}
