import errno
import json
import threading

import pytest

from ropewalk.errors import RunFolderError
from ropewalk.evaluate.records import EvalRecord
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.search.loop import SearchOutcome
from ropewalk.search.result import SearchResult
from ropewalk.search.run_folder import RunFolder
from ropewalk.search.space import Candidate
from ropewalk.search.trial import Trial

GEOMETRY = RopeGeometry(head_dim=4, rotary_dim=4, rope_theta=625.0, original_length=256, num_layers=2)
FACTORS = RescaleFactors.single(
    geometry=GEOMETRY, target_length=2048, rescale_factors=[1.5, 8.0], num_start_tokens=4
)
TRIAL = Trial(
    index=0,
    candidate=Candidate(rescale_factors=(1.5, 8.0), num_start_tokens=4, attention_factor=1.0),
    value=9.0,
    failure=None,
    seconds=1.0,
    cost=1.0,
)
RESULT = SearchResult(
    factors=FACTORS,
    factors_without_start_tokens=FACTORS.replace(num_start_tokens=0),
    outcome=SearchOutcome(
        trials=(TRIAL,),
        best=TRIAL,
        best_without_start_tokens=None,
        on_validation=None,
        unconstrained=None,
        stopped_by="budget",
    ),
    identity={"seed": 0, "serve_with": "ropewalk"},
    environment={"versions": {}},
    reproducible=True,
)
RECORD = EvalRecord(
    metric="perplexity", value=9.0, length=2048, factors="yarn", n=1, low=None, high=None, seed=0,
    seconds=1.0, model="tiny",
)  # fmt: skip


def refusal(make, path):
    with pytest.raises(RunFolderError) as error:
        make(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def begin(folder):
    folder.journal.begin({"seed": 0}, {})
    folder.journal.append(TRIAL, {})
    folder.journal.close()


def test_what_a_run_leaves(tmp_path):
    path = tmp_path / "runs" / "mine"
    with RunFolder.create(path) as folder:
        begin(folder)
        folder.write_search(RESULT)
        folder.write_records([RECORD, RECORD])
        assert folder.write_figure("perplexity", b"png") == path / "perplexity.png"
    assert names(path) == [
        "factors-no-start-tokens.json",
        "factors.json",
        "journal.jsonl",
        "perplexity.png",
        "records.jsonl",
        "run.json",
    ]
    assert RescaleFactors.load(folder.factors_path) == FACTORS
    assert RescaleFactors.load(folder.factors_without_start_tokens_path).num_start_tokens == 0
    run = json.loads(folder.run_path.read_text())
    assert (run["format"], run["version"], run["identity"]) == ("ropewalk.run", 1, RESULT.identity)
    assert run["result"]["value"] == 9.0
    lines = folder.records_path.read_text().splitlines()
    assert [json.loads(line)["factors"] for line in lines] == ["yarn", "yarn"]


def test_an_empty_folder_is_taken(tmp_path):
    with RunFolder.create(tmp_path) as folder:
        begin(folder)
    assert tmp_path.exists()


def test_another_run_is_refused(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        begin(folder)
    before = folder.journal_path.read_bytes()
    assert "--resume" in refusal(RunFolder.create, tmp_path / "run")
    assert folder.journal_path.read_bytes() == before


@pytest.mark.parametrize("make", [RunFolder.create, RunFolder.resume])
def test_foreign_files_are_refused_and_left_alone(tmp_path, make):
    for name in "abcd":
        (tmp_path / name).write_text("mine")
    assert "a, b, c ..." in refusal(make, tmp_path)
    assert names(tmp_path) == list("abcd")


def test_a_run_is_resumed_with_its_journal(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        begin(folder)
    with RunFolder.resume(tmp_path / "run") as folder:
        folder.journal.begin({"seed": 0}, {})
        assert folder.journal.trials == [TRIAL]


def test_a_run_of_other_settings_is_refused_with_what_differs(tmp_path):
    with RunFolder.create(tmp_path / "run") as folder:
        begin(folder)
    with RunFolder.resume(tmp_path / "run") as folder, pytest.raises(RunFolderError, match="seed"):
        folder.journal.begin({"seed": 1}, {})


@pytest.mark.parametrize("make", [RunFolder.create, RunFolder.resume])
def test_resuming_what_was_killed_before_its_first_trial_begins_anew(tmp_path, make):
    with make(tmp_path / "new") as folder:
        begin(folder)
    assert folder.journal_path.exists()


def test_a_run_killed_before_its_first_trial_can_be_resumed(tmp_path):
    (tmp_path / "journal.jsonl").touch()
    with RunFolder.resume(tmp_path) as folder:
        begin(folder)
        assert folder.journal.trials == [TRIAL]


@pytest.mark.parametrize("make", [RunFolder.create, RunFolder.resume])
def test_folders_that_were_made_for_nothing_are_taken_back(tmp_path, make):
    path = tmp_path / "runs" / "deep" / "mine"
    with pytest.raises(KeyboardInterrupt), make(path) as folder:
        assert path.is_dir()
        folder.journal.begin({}, {})
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_folders_that_were_there_stay(tmp_path):
    path = tmp_path / "there"
    path.mkdir()
    with RunFolder.create(path / "new"):
        pass
    assert names(path) == []
    with RunFolder.create(path):
        pass
    assert path.exists()


@pytest.mark.parametrize("make", [RunFolder.create, RunFolder.resume])
def test_a_file_is_no_folder(tmp_path, make):
    (tmp_path / "file").write_text("mine")
    assert "file" in refusal(make, tmp_path / "file")
    refusal(make, tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("make", [RunFolder.create, RunFolder.resume])
def test_no_permission_is_one_line(tmp_path, make, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as it is for a user; root may do all
    assert "permissions" in refusal(make, tmp_path)


@pytest.mark.parametrize("make", [RunFolder.create, RunFolder.resume])
def test_where_no_folder_can_be_made(tmp_path, make, monkeypatch):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", denied)
    assert "permission" in refusal(make, tmp_path / "new")


def test_names_too_long_are_one_line(tmp_path):
    refusal(RunFolder.create, tmp_path / ("x" * 300))


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with RunFolder.create(tmp_path / "run") as folder:
        begin(folder)
        folder.write_records([RECORD])
        before = folder.records_path.read_bytes()
        monkeypatch.setattr("os.fsync", full)
        for write in (lambda: folder.write_search(RESULT), lambda: folder.write_records([RECORD, RECORD])):
            with pytest.raises(RunFolderError, match="no space left") as error:
                write()
            assert "\n" not in str(error.value)
    assert names(folder.path) == ["journal.jsonl", "records.jsonl"]
    assert folder.records_path.read_bytes() == before


def test_of_two_that_begin_at_once_one_is_refused(tmp_path):
    outcomes = []

    def run(barrier):
        with RunFolder.create(tmp_path) as folder:
            barrier.wait()
            try:
                folder.journal.begin({"seed": 0}, {})
                outcomes.append("begun")
            except RunFolderError as error:
                outcomes.append("refused" if "in use" in str(error) else str(error))
            barrier.wait()

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=run, args=(barrier,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["begun", "refused"]
