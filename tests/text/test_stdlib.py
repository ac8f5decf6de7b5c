import sys
from pathlib import Path

import pytest

from ropewalk.text.stdlib import Split, is_test, module_splits, stdlib_files, stdlib_folder

SPLITS = ("train", "search", "held_out")


def test_every_module_of_this_interpreter_is_assigned() -> None:
    assigned = {module for modules in module_splits().values() for module in modules}
    folder = stdlib_folder()
    names = sys.stdlib_module_names
    here = {name for name in names if (folder / name).is_dir() or (folder / f"{name}.py").is_file()}
    generated = {name for name in here if name.startswith("_sysconfigdata")}

    assert len(here) > 150
    assert here - assigned - generated == set()


def test_no_module_is_in_two_splits() -> None:
    modules = [module for names in module_splits().values() for module in names]

    assert len(modules) == len(set(modules))


def test_no_file_is_read_by_two_splits(library: Path) -> None:
    files = {split: set(stdlib_files(split, library)) for split in SPLITS}  # type: ignore[arg-type]

    assert all(files.values())
    assert not files["held_out"] & files["train"]
    assert not files["held_out"] & files["search"]
    assert not files["search"] & files["train"]


@pytest.mark.parametrize("split", ["search", "held_out"])
def test_no_file_for_training_is_a_copy_of_what_is_evaluated_on(split: Split) -> None:
    evaluated = {words for file in stdlib_files(split) for words in stretches(file)}

    num_read = num_shared = 0
    for file in stdlib_files("train"):
        read = stretches(file)
        shared = read & evaluated
        assert len(shared) <= 0.15 * len(read), file
        num_read, num_shared = num_read + len(read), num_shared + len(shared)
    assert num_shared <= 0.01 * num_read


def stretches(file: Path) -> set[tuple[str, ...]]:
    """Every 13 words in a row: as many are no accident."""
    words = file.read_text(encoding="utf-8", errors="ignore").split()
    return set(zip(*(words[start:] for start in range(13)), strict=False))


@pytest.mark.parametrize("split", ["search", "held_out"])
def test_nothing_that_is_never_evaluated_on_is_read(split: str) -> None:
    top = {file.relative_to(stdlib_folder()).parts[0] for file in stdlib_files(split)}  # type: ignore[arg-type]

    assert top.isdisjoint({"test", "encodings", "pydoc_data"})


def test_shares_are_about_three_fifths_a_sixth_and_a_quarter() -> None:
    num_bytes = {split: sum(f.stat().st_size for f in stdlib_files(split)) for split in SPLITS}  # type: ignore[arg-type]
    total = sum(num_bytes.values())

    assert 0.45 < num_bytes["train"] / total < 0.65
    assert 0.12 < num_bytes["search"] / total < 0.3
    assert 0.17 < num_bytes["held_out"] / total < 0.3


@pytest.mark.parametrize(
    ("relative", "expected"),
    [
        ("test/test_os.py", True),
        ("idlelib/idle_test/mock_tk.py", True),
        ("unittest/case.py", False),
        ("test.py", False),
    ],
)
def test_a_tests_folder_makes_a_test(relative: str, expected: bool) -> None:
    assert is_test(Path(relative)) is expected
