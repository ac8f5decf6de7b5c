import dataclasses
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quadratic import RecordingObjective, Valued, journal_values, make_space, search_on, write_journal

from ropewalk.errors import EvaluationError, RunFolderError, SettingError
from ropewalk.search.journal import Journal


def evolve(space, objective, journal=None, **how):
    objective.space = space
    return search_on("evolution", objective, journal, **how)


def begun(path, identity=None, environment=None):
    journal = Journal(path)
    journal.begin(identity or {}, environment or {})
    return journal


def without_start_tokens(space):
    return dataclasses.replace(space, start_tokens=(0,))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


def test_the_best_is_the_lowest_and_the_budget_is_kept(space, objective):
    outcome = evolve(space, objective, budget=100)
    assert outcome.stopped_by == "budget"
    assert len(objective.tasks) == len(outcome.trials) <= 100
    assert outcome.cost == len(outcome.trials)
    assert outcome.best.value == min(trial.value for trial in outcome.trials)
    assert [trial.index for trial in outcome.trials] == list(range(len(outcome.trials)))


def test_of_equal_values_the_first_wins(space):
    assert evolve(space, Valued(space, lambda candidate: 3.0), budget=10).best.index == 0


def test_one_evaluation_is_kept_for_the_best_without_start_tokens(space, objective):
    """The minimum has some, so the best has some; the last trial has the same lambda without."""
    outcome = evolve(space, objective, budget=300)
    assert outcome.best.candidate.num_start_tokens > 0
    check = outcome.trials[-1]
    assert [trial.kind for trial in outcome.trials] == ["trial"] * 299 + ["check"]
    assert check.candidate == outcome.best.candidate.without_start_tokens()
    lowest = min(t.value for t in outcome.trials if t.candidate.num_start_tokens == 0)
    assert outcome.best_without_start_tokens.value == lowest


def test_no_check_where_it_was_tried_already(space, objective):
    """PI, the first candidate, has no start tokens; with a budget of two it is its own twin."""
    outcome = evolve(space, objective, budget=2)
    assert len(outcome.trials) == 1
    assert outcome.best is outcome.best_without_start_tokens


def test_without_start_tokens_the_strategy_has_the_whole_budget(space, objective):
    outcome = evolve(without_start_tokens(space), objective, budget=70)
    assert len(outcome.trials) == 70
    assert {trial.kind for trial in outcome.trials} == {"trial"}


def test_a_better_check_is_the_best(space, objective):
    """n-hat is bad, but the strategy sees so only by the check: all it asks for with 0 fails."""

    def value_of(candidate):
        if candidate.num_start_tokens == 0 and len(objective.tasks) < 30:
            return math.nan
        return 1.0 + candidate.num_start_tokens

    objective = Valued(space, value_of)
    outcome = evolve(space, objective, budget=30)
    assert outcome.best.kind == "check"
    assert outcome.best == outcome.best_without_start_tokens


def test_a_budget_too_small_is_refused(space, objective):
    with pytest.raises(SettingError, match="budget"):
        evolve(space, objective, budget=1)
    assert len(evolve(without_start_tokens(space), objective, budget=1).trials) == 1


def test_costs_are_counted_in_forward_passes(space, objective):
    outcome = evolve(without_start_tokens(space), RecordingObjective(space, cost=3.0), budget=10)
    assert len(outcome.trials) == 3
    assert outcome.cost == 9


def test_failures_of_every_kind_are_trials(space, objective):
    def fail(candidate):
        match len(objective.tasks):
            case 3:
                return math.nan
            case 4:
                return math.inf
            case 5:
                raise MemoryError
            case 6:
                raise RuntimeError(
                    "[enforce fail] DefaultCPUAllocator: can't allocate memory:\n you tried 8 GB"
                )
        return 1.0

    objective = Valued(space, fail)
    outcome = evolve(space, objective, budget=10)
    reasons = {trial.index: trial.failure for trial in outcome.trials if trial.failure}
    assert list(reasons) == [2, 3, 4, 5]
    assert reasons[2] == "the value is nan"
    assert reasons[3] == "the value is inf"
    assert reasons[4] == "out of memory"
    assert reasons[5].startswith("out of memory: ")
    assert "can't allocate memory: you" in reasons[5]
    assert all("\n" not in reason for reason in reasons.values())


def test_a_defect_passes_through(space, path):
    def broken(candidate):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"), begun(path) as journal:
        evolve(space, Valued(space, broken), journal)
    assert not path.exists(), "nothing ended, so nothing is left"


def test_if_all_fails_it_says_so(space):
    with pytest.raises(EvaluationError, match=r"All 9 .*nan"):
        evolve(space, Valued(space, lambda candidate: math.nan), budget=10)


def test_progress_tells_best_trials_and_time(space, objective):
    seen = []
    outcome = evolve(without_start_tokens(space), objective, budget=30, on_trial=seen.append)
    assert [progress.num_trials for progress in seen] == list(range(1, 31))
    assert seen[-1].best == outcome.best
    assert seen[-1].seconds_left == 0
    assert all(progress.seconds_left > 0 for progress in seen[:-1])
    values = [progress.best.value for progress in seen]
    assert values == sorted(values, reverse=True)


def test_a_limit_in_time_ends_the_search_and_the_check_still_comes(space, objective, path):
    objective.seconds = 0.02
    with begun(path) as journal:
        outcome = evolve(space, objective, journal, budget=1000, max_minutes=0.4 / 60)
    assert outcome.stopped_by == "time"
    assert 2 < len(outcome.trials) < 40
    num_done = len(objective.tasks)
    with begun(path) as journal:
        again = evolve(space, objective, journal, budget=1000, max_minutes=0.4 / 60)
    assert len(objective.tasks) == num_done, "a run that ended stays ended"
    assert again == outcome


def test_a_finished_run_gives_its_result_again(space, objective, path):
    with begun(path) as journal:
        outcome = evolve(space, objective, journal)
    content, num_asked = path.read_bytes(), len(objective.tasks)
    seen = []
    with begun(path) as journal:
        again = evolve(space, objective, journal, on_trial=seen.append)
    assert again == outcome
    assert (path.read_bytes(), len(objective.tasks), seen) == (content, num_asked, [])


def test_cut_anywhere_in_its_last_lines_a_run_ends_as_it_did(space, objective, path, monkeypatch):
    """The last lines are a child's, and the check's."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # so many of them take long
    small = {"population_size": 6, "num_mutations": 2, "num_crossovers": 2, "num_parents": 3}

    def run():
        with begun(path) as journal:
            outcome = evolve(space, objective, journal, settings=small, budget=14)
        return [(trial.candidate, trial.value, trial.kind) for trial in outcome.trials]

    expected = run()
    assert expected[-1][2] == "check", "the last one is the check"
    content = path.read_bytes()
    start = len(content) - sum(len(line) for line in content.splitlines(keepends=True)[-2:])
    for cut in [*range(start, len(content), 17), len(content) - 1, len(content)]:
        path.write_bytes(content[:cut])
        assert run() == expected, cut


def test_journalled_values_are_told_as_they_stand(space, objective, path):
    """A value that no longer comes out the same is not computed again."""
    with begun(path) as journal:
        evolve(space, objective, journal, budget=20)
    lines = journal_values(path)
    write_journal(path, [*lines[:5], lines[5] | {"value": 0.5}, *lines[6:10]])
    with begun(path) as journal:
        outcome = evolve(space, objective, journal, budget=20)
    assert outcome.best.value == 0.5
    assert outcome.best.index == 4


def test_a_replay_that_differs_is_refused_with_what_differs(space, objective, path):
    with begun(path, environment={"versions": {"numpy": "1.0"}}) as journal:
        evolve(space, objective, journal, seed=0)
    with pytest.warns(UserWarning, match="numpy"):
        journal = begun(path, environment={"versions": {"numpy": "2.0"}})
    with journal:
        with pytest.raises(RunFolderError, match=r'versions.numpy.*"2.0".*"1.0"') as error:
            evolve(space, objective, journal, seed=1)
        assert "\n" not in str(error.value)


def timeless(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_an_edited_candidate_or_generator_is_noticed_and_can_be_cut(space, objective, path):
    with begun(path) as journal:
        expected = evolve(space, objective, journal)
    lines = journal_values(path)
    for key, change in [
        ("candidate", {"num_start_tokens": 256}),
        ("generator", {"state": "1"}),
    ]:
        edited = lines[70] | {key: lines[70][key] | change}
        write_journal(path, [*lines[:70], edited, *lines[71:]])
        with begun(path) as journal, pytest.raises(RunFolderError, match=r"trial 69 .*changed"):
            evolve(space, objective, journal)
        with Journal(path, cut_damaged=True) as journal:
            journal.begin({}, {})
            assert evolve(space, objective, journal).best.candidate == expected.best.candidate
        assert timeless(journal_values(path)) == timeless(lines)


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient": [0.5]}, {"parts": {"other": [1.0]}}, {"parts": {"quadratic": [1.0]}},
        {"documents": [9]}, {"documents": [0, 1]}, {"value": -1.0}, {"value": 0.0}, {"kind": "stop"},
    ],
)  # fmt: skip
def test_a_trial_that_no_measurement_gives_is_refused(changes, path):
    """Right types and right checksums, but nothing that a strategy could be told."""
    space = make_space(6)

    def descend(journal):
        return search_on("cma", RecordingObjective(space, 4), journal, budget=12)

    with begun(path) as journal:
        descend(journal)
    lines = journal_values(path)
    for number in (1, 4, len(lines) - 1):
        write_journal(path, [*lines[:number], lines[number] | changes, *lines[number + 1 :]])
        with pytest.raises(RunFolderError), begun(path) as journal:
            descend(journal)
        with Journal(path, cut_damaged=True) as journal:
            journal.begin({}, {})
            descend(journal)
        assert timeless(journal_values(path)) == timeless(lines)


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from quadratic import RecordingObjective, Valued, journal_values, make_space, search_on, write_journal
from ropewalk.search.journal import Journal
space = make_space(num_pairs=32)
with Journal(Path(sys.argv[2])) as journal:
    journal.begin({}, {})
    print("begun", flush=True)
    outcome = search_on("evolution", RecordingObjective(space, seconds=0.003), journal, budget=160)
print(space.to_factors(outcome.best.candidate).to_json())
"""


def test_killed_at_random_moments_it_ends_with_the_same_factors(path):
    """kill -9 again and again, each time at another moment, then once to the end."""

    def start():
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1] / "helpers"), str(path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def num_written():
        return path.read_bytes().count(b'"kind"')

    space = make_space(num_pairs=32)
    expected = space.to_factors(evolve(space, RecordingObjective(space), budget=160).best.candidate).to_json()
    moments = random.Random()  # another moment in every run of this test
    num_done = []
    for _ in range(4):
        with start() as process:
            assert process.stdout.readline() == "begun\n"
            wanted = num_written() + moments.randint(1, 25)
            while num_written() < wanted:
                time.sleep(0.001)
            time.sleep(moments.uniform(0.0, 0.008))
            process.kill()
            process.wait()
            assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        num_done.append(num_written())
    assert num_done == sorted(num_done)
    assert 0 < num_done[-1] < 160
    with start() as process:
        assert process.stdout.read() == f"begun\n{expected}\n"
