"""A file of answers gives back what was written to it, and only to the measurement that wrote it."""

from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.answer_file import AnswerFile
from ropewalk.evaluate.answers import AnswerProgress, PasskeyAnswer, summary
from ropewalk.evaluate.records import EvalRecord

IDENTITY = {"model": {"name": "here", "weights_sha256": "1" * 64}, "settings": {"seed": 0}}
ANSWERS = [
    PasskeyAnswer(
        factors="yarn", length=256, key=52170 + number, depth=number / 3, text=f" {52170 + number}."
    )
    for number in range(4)
]
RECORD = EvalRecord(
    **summary(ANSWERS), metric="passkey", length=256, factors="yarn", seed=0, seconds=2.0, model="here"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """In a folder that does not exist yet."""
    return tmp_path / "new" / "answers.jsonl"


def opened(path: Path | None, identity: dict[str, Any] = IDENTITY) -> AnswerFile[PasskeyAnswer]:
    return AnswerFile(path, PasskeyAnswer, identity)


def write(path: Path, num_answers: int = len(ANSWERS)) -> None:
    with opened(path) as file:
        for answer in ANSWERS[:num_answers]:
            file.add_answer(
                AnswerProgress(answer=answer, num_answered=1, num_found=1, num_trials=4, seconds_left=0)
            )
        if num_answers == len(ANSWERS):
            file.add_record(RECORD)


def test_it_gives_back_answers_and_records(path: Path) -> None:
    write(path, 2)
    with opened(path) as file:
        assert (file.answers, file.records) == (ANSWERS[:2], [])
    path.unlink()
    write(path)
    with opened(path) as file:
        assert (file.answers, file.records) == (ANSWERS, [RECORD])


def test_what_a_killed_write_left_is_cut_off_and_written_again(path: Path) -> None:
    write(path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in (b"".join(lines[:3]) + lines[3][:20], lines[0][:30]):
        path.write_bytes(cut)
        with opened(path) as file:
            num_known = len(file.answers)
            assert file.answers == ANSWERS[:num_known]
            for answer in ANSWERS[num_known:]:
                file.add_answer(
                    AnswerProgress(answer=answer, num_answered=1, num_found=1, num_trials=4, seconds_left=0)
                )
            file.add_record(RECORD)
        assert path.read_bytes() == whole


def test_a_record_that_is_there_keeps_its_time(path: Path) -> None:
    write(path)
    before = path.read_bytes()
    with opened(path) as file:
        file.add_record(EvalRecord(**{**RECORD.__dict__, "seconds": 0.0}))
        assert file.records == [RECORD]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("identity", "noun"),
    [
        ({**IDENTITY, "settings": {"seed": 1}}, "seed"),
        ({**IDENTITY, "model": {**IDENTITY["model"], "weights_sha256": "2" * 64}}, "weights_sha256"),
        ({**IDENTITY, "text": {"data_sha256": "3" * 64}}, "text"),
    ],
)
def test_another_measurement_is_refused_and_its_file_stays(
    path: Path, identity: dict[str, Any], noun: str
) -> None:
    write(path)
    before = path.read_bytes()
    with pytest.raises(RunFolderError, match=noun):
        opened(path, identity)
    assert path.read_bytes() == before


def test_the_model_may_have_moved(path: Path) -> None:
    write(path)
    with opened(path, {**IDENTITY, "model": {**IDENTITY["model"], "name": "there"}}) as file:
        assert file.answers == ANSWERS


def test_another_file_is_refused_and_stays(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("my notes\n")
    with pytest.raises(RunFolderError, match="answers"):
        opened(path)
    assert path.read_text() == "my notes\n"


@pytest.mark.parametrize(
    ("line", "old", "new"), [(2, b'" 52171."', b'" 52179."'), (0, b'"seed": 0', b'"seed": 1')]
)
def test_a_changed_line_is_named(path: Path, line: int, old: bytes, new: bytes) -> None:
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(old, new)
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunFolderError, match=f"line {line + 1}"):
        opened(path)


def test_a_file_without_an_answer_is_removed_and_two_processes_do_not_share_one(path: Path) -> None:
    with opened(path), pytest.raises(RunFolderError, match="in use"):
        opened(path)
    assert list(path.parent.iterdir()) == []


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(None) as file:
        file.add_record(RECORD)
        assert file.records == [RECORD]
    assert list(tmp_path.iterdir()) == []
