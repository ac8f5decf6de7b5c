import json

import pytest

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.recipe.stage_folder import StageFolder
from ropewalk.search.run_folder import RunFolder

RECORD = EvalRecord(
    metric="perplexity", value=9.0, length=2048, factors="yarn", n=1, low=None, high=None, seed=0,
    seconds=1.0, model="tiny",
)  # fmt: skip


@pytest.fixture
def stage(tmp_path):
    folder = StageFolder(tmp_path / "stages" / "01-search")
    folder.begin({"text": {"search": "12"}, "lengths": (1, 2)})
    return folder


def finish(stage):
    stage.write(stage.factors_path(), "{}")
    stage.finish([stage.factors_path()], seconds=1.5)


def test_a_stage_is_done_while_its_outputs_are_what_they_were(stage):
    assert stage.done() is stage.made() is None
    finish(stage)
    assert stage.done() == stage.made() == {"seconds": 1.5}
    stage.factors_path().write_text("[]")
    assert stage.done() is None
    assert stage.made() == {"seconds": 1.5}
    stage.factors_path().unlink()
    assert stage.done() is None


@pytest.mark.parametrize("damage", [b'"seconds": 1.5', b'"version": 1', b"{"])
def test_a_damaged_note_is_none(stage, damage):
    finish(stage)
    content = stage.done_path.read_bytes()
    stage.done_path.write_bytes(content.replace(damage, damage.replace(b"1", b"9").replace(b"{", b"("), 1))
    assert stage.done() is None


def test_a_note_without_a_checksum_is_one_of_the_first_version(stage):
    finish(stage)
    document = json.loads(stage.done_path.read_text())
    del document["checksum"]
    stage.done_path.write_text(json.dumps(document))
    assert stage.done() == {"seconds": 1.5}


def test_other_inputs_are_refused_with_what_differs(stage):
    stage.begin({"text": {"search": "12"}, "lengths": [1, 2]})
    with pytest.raises(RunFolderError, match=r"text\.search") as error:
        stage.begin({"text": {"search": "34"}, "lengths": [1, 2]})
    assert "lengths" not in str(error.value)


def test_what_a_killed_process_left_is_removed(stage):
    (stage.path / ".start.12345678.partial").mkdir()
    (stage.path / ".start.partial").mkdir()  # as the first versions named it
    (stage.path / ".done.json.12345678.partial").touch()
    stage.begin({"text": {"search": "12"}, "lengths": [1, 2]})
    assert [path.name for path in stage.path.iterdir()] == ["inputs.json"]


def test_records_that_were_changed_after_the_end_are_measured_again(stage):
    stage.write_records([RECORD])
    assert stage.read_records() == [RECORD]
    stage.finish([stage.records_path])
    assert stage.read_records() == [RECORD]
    stage.records_path.write_text(stage.records_path.read_text().replace("9.0", "8.0"))
    assert stage.read_records() == []
    stage.records_path.write_text("{\n")
    assert stage.read_records() == []


def test_the_lock_on_the_run_covers_its_journals(stage):
    with stage.journal(256) as journal:
        journal.begin({}, {})
        assert sorted(path.name for path in stage.path.iterdir()) == ["inputs.json", "journal-256.jsonl"]
    with RunFolder.create(stage.path.parent / "search") as folder:
        folder.journal.begin({}, {})
        assert ".journal.jsonl.lock" in [path.name for path in folder.path.iterdir()]
