import json

import pytest

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.answers import PasskeyAnswer
from ropewalk.evaluate.records import EvalRecord
from ropewalk.recipe.finished_run import read_records

RECORD = EvalRecord(
    metric="perplexity", value=8.5, length=256, factors="yarn", n=3, low=None, high=None, seed=0, seconds=1.0,
    model="m", where={"device": "cpu"}, nll_by_position=({"start": 0, "stop": 64, "nats": 2.0},),
    documents="report",
)  # fmt: skip
ANSWER = PasskeyAnswer(factors="yarn", length=256, key=12345, depth=0.5, text=" 12345")
WRONG = [None, True, [], {}, "x", [None], {"a": None}, 2**70]


def test_measurements_are_read_back():
    assert EvalRecord.from_json(json.loads(json.dumps(RECORD.as_json()))) == RECORD
    assert PasskeyAnswer.from_json(json.loads(json.dumps(ANSWER.as_json()))) == ANSWER


@pytest.mark.parametrize("values", [*WRONG, {"metric": "perplexity"}, {**RECORD.as_json(), "unknown": 1}])
def test_what_is_no_measurement_is_refused(values, tmp_path):
    with pytest.raises(ValueError, match=r"\S"):
        EvalRecord.from_json(values)
    with pytest.raises(ValueError, match=r"\S"):
        PasskeyAnswer.from_json(values)
    lines = [json.dumps(RECORD.as_json()), json.dumps(values)]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(RunFolderError, match="line 2") as error:
        read_records(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["value", "length", "n", "seconds", "where", "nll_by_position", "documents"])
def test_a_value_of_a_wrong_type_is_refused(name):
    for wrong in (
        "5",
        [1],
        [{"start": None}],
        True if name not in ("n", "length", "value", "seconds") else "1",
    ):
        with pytest.raises(ValueError, match=r"\S"):
            EvalRecord.from_json({**RECORD.as_json(), name: wrong})
