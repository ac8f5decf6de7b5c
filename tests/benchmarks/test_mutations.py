"""`benchmarks/mutations.py`: its table fits the source, and it tells killed from survived."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import mutations
from mutation_table import MUTATIONS, PACKAGES, Mutation
from mutations import MutationError, find, find_tests, mutated, try_mutations

ROOT = Path(__file__).parents[2]
SOURCE = "def add(a, b):\n    return a + b\n\n\ndef twice(a):\n    return 2 * a\n"
TESTS = "from ropewalk.sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"


def mutation(text, replacement, tests=("tests",)):
    return Mutation(name="m", package="rope", breaks="", text=text, replacement=replacement, tests=tests)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "src/ropewalk").mkdir(parents=True)
    (tmp_path / "src/ropewalk/__init__.py").touch()
    (tmp_path / "src/ropewalk/sums.py").write_text(SOURCE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_sums.py").write_text(TESTS)
    return tmp_path


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_text_occurs_once_and_has_tests(mutation):
    path = find(mutation, ROOT / "src" / "ropewalk")
    compile(path.read_text().replace(mutation.text, mutation.replacement), path, "exec")
    assert mutation.text != mutation.replacement
    assert find_tests(mutation, ROOT)


def test_each_package_has_five_mutations_of_their_own():
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert [sum(m.package == package for m in MUTATIONS) for package in PACKAGES] == [5] * 6


def test_a_text_that_occurs_twice_is_refused(project):
    with pytest.raises(MutationError, match="2 times"):
        find(mutation("return", "yield"), project / "src/ropewalk")


def test_a_mutation_is_taken_back(project):
    with mutated(mutation("a + b", "a - b"), project) as path:
        assert "a - b" in path.read_text()
    assert path.read_text() == SOURCE


def test_killed_survived_and_not_tried(project, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which would take most of the time
    changes = [
        mutation("a + b", "a - b"),
        mutation("2 * a", "3 * a"),
        mutation("a / b", "a * b"),
        mutation("a + b", "a - b", tests=("tests/moved",)),
    ]
    outcomes = list(try_mutations(changes, project))
    found = [one.outcome for one in outcomes]
    assert found == ["killed", "survived", "error", "error"], [one.by for one in outcomes]
    assert "test_add" in outcomes[0].by


def test_tests_that_fail_without_a_mutation_prove_nothing(project, monkeypatch):
    monkeypatch.setattr(mutations, "run_tests", lambda paths, root: "test_sums.py::test_add")
    (outcome,) = try_mutations([mutation("a + b", "a - b")], project)
    assert outcome.outcome == "error"
