import contextlib
import errno
import json
import os
import subprocess
import sys

import pytest
from quadratic import journal_values, search_on, write_journal

from ropewalk.errors import RunFolderError
from ropewalk.search.journal import Journal, read_trials
from ropewalk.search.space import Candidate
from ropewalk.search.trial import Trial

IDENTITY = {"seed": 0, "space": {"step": 0.01, "start_tokens": (0, 4)}, "max_minutes": None}
ENVIRONMENT = {"versions": {"numpy": "2.4.0"}, "num_threads": 2}
STATE = {"bit_generator": "PCG64", "state": str(2**127), "inc": "1", "has_uint32": 0, "uinteger": 0}


def trial(index, value=9.5, failure=None):
    candidate = Candidate(rescale_factors=(1.0, 1.07, 8.0), num_start_tokens=4, attention_factor=1.1)
    return Trial(index=index, candidate=candidate, value=value, failure=failure, seconds=0.25, cost=1.0)


def written(path, num_trials=3):
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        for index in range(num_trials):
            journal.append(trial(index, 9.5 + index / 3), STATE)
    return path.read_bytes()


def reopened(path, identity=IDENTITY, environment=ENVIRONMENT):
    with Journal(path) as journal:
        journal.begin(identity, environment)
        return journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def refusal(path, **changes):
    with pytest.raises(RunFolderError) as error:
        reopened(path, **changes)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_what_is_written_is_read_back(path):
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        expected = [trial(0, 1 / 3), trial(1, None, "out of memory"), trial(2, 1e300)]
        for entry in expected:
            journal.append(entry, STATE)
    again = reopened(path)
    assert again.trials == expected
    assert again.generator_states == [STATE] * 3
    assert again.environments == [ENVIRONMENT]


def test_each_line_is_json_that_anyone_can_read(path):
    lines = [json.loads(line) for line in written(path).splitlines()]
    assert lines[0]["format"] == "ropewalk.journal"
    assert lines[0]["version"] == 2
    assert lines[0]["identity"]["seed"] == 0
    assert lines[1]["kind"] == "trial"
    assert lines[1]["candidate"]["rescale_factors"] == [1.0, 1.07, 8.0]
    assert int(lines[1]["generator"]["state"]) == 2**127


def test_a_trial_is_on_the_disk_when_append_returns(path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(path.stat().st_size))
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        for index in range(3):
            journal.append(trial(index), STATE)
            assert path.stat().st_size in synced
            assert len(path.read_bytes().splitlines()) == index + 2


def test_a_journal_without_a_trial_leaves_nothing_behind(path):
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        assert path.exists()
    assert not path.exists()


def test_torn_anywhere_it_goes_on_from_the_last_whole_line(path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # thousands of them take a minute
    content = written(path, 3)
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        num_whole = sum(end <= cut for end in ends)
        with Journal(path) as journal:
            journal.begin(IDENTITY, ENVIRONMENT)
            num_trials = max(0, num_whole - 1)
            assert len(journal.trials) == num_trials, cut
            for index in range(num_trials, 3):
                journal.append(trial(index, 9.5 + index / 3), STATE)
        # With all trials there and only the newline cut off, nothing is missing.
        assert path.read_bytes() == content, cut


def test_zeros_at_the_end_as_a_power_cut_leaves_them_are_cut_off(path):
    content = written(path)
    path.write_bytes(content + bytes(100))
    assert len(reopened(path).trials) == 3
    assert path.read_bytes() == content


def test_a_damaged_line_is_named(path):
    lines = written(path).splitlines(keepends=True)
    for number, damage in [
        (2, b"{]\n"),
        (3, b"[]\n"),
        (2, b"{}\n"),
        (3, lines[1]),
        (4, b'{"kind": "trial"}\n'),
    ]:
        path.write_bytes(b"".join([*lines[: number - 1], damage, *lines[number:]]))
        message = refusal(path)
        assert f"line {number}" in message
        assert "--cut-damaged" in message


@pytest.mark.parametrize(
    "content", [b"1.0\n2.0\n", b"1.0", b'{"format": "ropewalk.factors"}\n', b"\x80\x04\x95"]
)
def test_a_file_that_is_no_journal_is_left_alone(path, content):
    path.write_bytes(content)
    assert "not a journal" in refusal(path)
    assert path.read_bytes() == content


def test_a_newer_version_is_refused(path):
    path.write_bytes(written(path).replace(b'"version": 2', b'"version": 3', 1))
    assert "version 3" in refusal(path)


def test_another_identity_is_refused_and_named(path):
    before = written(path)
    other = {**IDENTITY, "seed": 7, "space": {"step": 0.02, "start_tokens": (0, 4)}}
    message = refusal(path, identity=other)
    assert "seed" in message
    assert "space.step" in message
    assert "start_tokens" not in message
    assert path.read_bytes() == before


def test_another_environment_is_noted_once(path):
    written(path)
    newer = {**ENVIRONMENT, "num_threads": 4}
    with Journal(path) as journal:
        with pytest.warns(UserWarning, match="num_threads"):
            journal.begin(IDENTITY, newer)
        journal.append(trial(3), STATE)
    assert reopened(path, environment=newer).environments == [ENVIRONMENT, newer]
    assert path.read_bytes().count(b'"resumed"') == 1
    with pytest.warns(UserWarning, match="num_threads"):
        assert len(reopened(path).trials) == 4


def test_a_second_process_is_refused_until_the_first_is_killed(path):
    code = (
        "import sys, time; from pathlib import Path; from ropewalk.search.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1])); journal.begin({'seed': 0}, {}); print('locked', flush=True)\n"
        "time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        assert "in use" in refusal(path, identity={"seed": 0}, environment={})
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert path.read_bytes() == b"", "nothing but the lock was there, and the loser left it alone"
    assert reopened(path, identity={"seed": 0}, environment={}).trials == []


def test_in_one_process_too_it_is_locked(path):
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        assert "in use" in refusal(path)


def test_a_locked_folder_needs_no_lock_of_its_journal(path):
    with Journal(path, lock=False) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        assert [file.name for file in path.parent.iterdir()] == ["journal.jsonl"]


def test_without_locks_on_its_file_system_a_journal_is_written(path, monkeypatch):
    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", missing)
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        assert "in use" in refusal(path)
        journal.append(trial(0), STATE)
    assert len(reopened(path).trials) == 1
    assert [file.name for file in path.parent.iterdir()] == ["journal.jsonl"]


def test_folders_and_missing_folders_are_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "journal.jsonl"):
        refusal(path)


class Full:
    """A file whose disk has room for so many bytes more."""

    def __init__(self, file, room):
        self.file = file
        self.room = room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def fileno(self):
        return self.file.fileno()

    def write(self, content):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = content[: self.room]
        self.room -= len(part)
        return self.file.write(part)


@pytest.mark.parametrize("room", [0, 1, 100, 250])
def test_a_full_disk_leaves_the_journal_whole(path, room):
    before = written(path, 2)
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        journal._file.raw = Full(journal._file.raw, room)
        with pytest.raises(RunFolderError, match=r"disk.*2 trials"):
            journal.append(trial(2), STATE)
        assert path.read_bytes() == before
    assert len(reopened(path).trials) == 2


def test_a_search_stopped_by_a_full_disk_goes_on(path, space, objective):
    whole = search_on("evolution", objective, budget=20)
    with Journal(path) as journal:
        journal.begin({}, {})
        journal._file.raw = Full(journal._file.raw, 5000)
        with pytest.raises(RunFolderError, match="disk"):
            search_on("evolution", objective, journal, budget=20)
    with Journal(path) as journal:
        journal.begin({}, {})
        assert 0 < len(journal.trials) < 20
        again = search_on("evolution", objective, journal, budget=20)
    assert again.best.candidate == whole.best.candidate


@pytest.mark.parametrize("damage", ["value", "digit", "lost", "doubled", "swapped", "joined", "other"])
def test_whatever_happened_to_a_line_is_noticed(path, damage):
    """Each of these still is JSON of the right types, or nearly so."""
    lines = written(path, 5).splitlines(keepends=True)
    value = lines[3]
    changed = {
        "value": [value.replace(b'"value": 10.1', b'"value": 9.1')],
        "digit": [value.replace(b"1.07", b"1.17")],
        "lost": [],
        "doubled": [value, value],
        "swapped": [lines[4], value],
        "joined": [value.rstrip(b"\n")],
        "other": [lines[3].replace(b'"index": 2', b'"index": 3')],
    }[damage]
    rest = lines[5:] if damage == "swapped" else lines[4:]
    assert changed != [value]
    path.write_bytes(b"".join([*lines[:3], *changed, *rest]))
    before = path.read_bytes()
    assert "line 4" in refusal(path) or (damage == "doubled" and "line 5" in refusal(path))
    assert path.read_bytes() == before, "nothing is cut without being asked"
    with pytest.raises(RunFolderError):
        read_trials(path)


@pytest.mark.parametrize("name", ["resumed", "environment"])
def test_a_line_about_the_environment_is_checked_too(path, name):
    newer = {**ENVIRONMENT, "num_threads": 4}
    written(path)
    with Journal(path) as journal:
        with pytest.warns(UserWarning, match="num_threads"):
            journal.begin(IDENTITY, newer)
        journal.append(trial(3), STATE)
    lines = path.read_bytes().splitlines(keepends=True)
    assert b'"resumed"' in lines[4]
    path.write_bytes(
        b"".join([*lines[:4], *([lines[4].replace(b"4}", b"2}")] * (name != "resumed")), *lines[5:]])
    )
    assert "line 5" in refusal(path)


@pytest.mark.parametrize("version", [1, 2])
def test_cut_at_a_damaged_line_the_search_ends_as_if_nothing_had_happened(path, space, objective, version):
    with Journal(path) as journal:
        journal.begin({}, {})
        expected = search_on("evolution", objective, journal, budget=30)
    whole = journal_values(path)
    for number in (2, 11, 30):
        write_journal(path, whole, version)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(
            b"".join([*lines[: number - 1], lines[number - 1].replace(b":", b";"), *lines[number:]])
        )
        assert f"line {number}" in refusal(path, identity={}, environment={})
        with Journal(path, cut_damaged=True) as journal:
            journal.begin({}, {})
            assert len(journal.trials) == number - 2
            assert path.read_bytes() == b"".join(lines[: number - 1])
            outcome = search_on("evolution", objective, journal, budget=30)
        assert outcome.best.candidate == expected.best.candidate
        assert [t.value for t in outcome.trials] == [t.value for t in expected.trials]
        timeless = [{**line, "seconds": None} for line in journal_values(path)]
        assert timeless[1:] == [{**line, "seconds": None} for line in whole][1:]
        assert reopened(path, identity={}, environment={}).trials == list(outcome.trials)


def test_a_damaged_opening_can_not_be_cut(path):
    content = written(path)
    path.write_bytes(content.replace(b'"seed": 0', b'"seed": 1', 1))
    with Journal(path, cut_damaged=True) as journal, pytest.raises(RunFolderError, match="line 1"):
        journal.begin(IDENTITY, ENVIRONMENT)
    assert path.read_bytes() == content.replace(b'"seed": 0', b'"seed": 1', 1)


def test_another_run_is_not_cut(path):
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"damage\n", *lines[3:]]))
    with Journal(path, cut_damaged=True) as journal, pytest.raises(RunFolderError, match="another run"):
        journal.begin({**IDENTITY, "seed": 1}, ENVIRONMENT)
    assert b"damage" in path.read_bytes()


def test_a_journal_of_version_1_is_read_and_continued_as_such(path):
    written(path, 2)
    write_journal(path, journal_values(path), version=1)
    with Journal(path) as journal:
        journal.begin(IDENTITY, ENVIRONMENT)
        assert len(journal.trials) == 2
        journal.append(trial(2, 1.5), STATE)
    assert b"checksum" not in path.read_bytes()
    assert [t.value for t in reopened(path).trials] == [9.5, 9.5 + 1 / 3, 1.5]
    assert len(read_trials(path)) == 3


@pytest.mark.parametrize("version", [1, 2])
def test_what_racing_wrote_in_a_journal_is_ignored(path, version):
    """Older searches wrote the racing error, and of a trial that they dropped an estimate."""
    written(path)
    header, first, second, third = journal_values(path)
    old = header | {"identity": header["identity"] | {"racing": 0.01}}
    dropped = second | {"value": None, "failure": "dropped", "documents": [0], "estimate": 11.5}
    write_journal(path, [old, first, dropped, third], version)
    assert [entry.value for entry in reopened(path).trials] == [9.5, None, 9.5 + 2 / 3]
    assert [entry.value for entry in read_trials(path)] == [9.5, None, 9.5 + 2 / 3]


WRONG = [None, True, "1", [], {}, -1, 2**70, 0.5, [[]], [None], [1, "a"], {"a": None}, {"a": [None]}]


@pytest.mark.parametrize("version", [1, 2])
def test_values_of_a_wrong_type_are_damage(path, version):
    """An edited journal ends in one line, never in a search that crashes."""
    written(path)
    lines = journal_values(path)
    full = lines[2] | {"documents": [0], "parts": {"nats": [1.0]}, "gradient": [0.5]}
    for name in full:
        for wrong in WRONG:
            write_journal(path, [*lines[:2], full | {name: wrong}, lines[3]], version)
            journal = Journal(path)
            with journal, contextlib.suppress(RunFolderError):
                journal.begin(IDENTITY, ENVIRONMENT)
            for read in journal.trials:
                assert Trial.from_dict(read.as_dict()) == read
    for name in ("identity", "environment", "format", "version"):
        for wrong in [value for value in WRONG if not isinstance(value, dict)]:
            write_journal(path, [lines[0], *lines[1:]], version)
            content = path.read_bytes().splitlines(keepends=True)
            header = json.loads(content[0]) | {name: wrong}
            path.write_bytes(b"".join([json.dumps(header).encode() + b"\n", *content[1:]]))
            refusal(path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_device_is_no_journal_and_is_left_alone(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert "device" in refusal(path)
    assert path.exists()
