import json

from ropewalk.evaluate.records import EvalRecord


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
