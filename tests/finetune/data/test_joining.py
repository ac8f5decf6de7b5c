"""Documents joined by folder and by topic."""

from pathlib import Path
from typing import Any

import pytest
from training_rows import write_rows

from ropewalk.errors import DataError
from ropewalk.finetune.data.joining import read_groups
from ropewalk.finetune.data.settings import SourceSettings
from ropewalk.text.stdlib import module_splits


def read(text: object, **settings: Any) -> list[list[str]]:
    """The texts of every group."""
    groups = read_groups(SourceSettings(name="mine", text=str(text), **settings))
    return [[document.head(1000) for document in group] for group in groups]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Files in two folders, one of which has a folder in it, and two files beside them."""
    for name in ("a.txt", "poems/one.txt", "poems/old/two.txt", "prose/three.md", "z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(Path(name).stem)
    return tmp_path


@pytest.mark.parametrize("pattern", ["", "**/*.*"])
def test_a_folder_is_joined_with_all_files_below_it(library: Path, pattern: str) -> None:
    assert sorted(read(library / pattern, join="folder")) == [["a", "z"], ["three"], ["two", "one"]]
    assert len(read(library / pattern)) == 5


def test_rows_of_a_topic_are_joined_in_their_order(tmp_path: Path) -> None:
    rows = [{"text": f"{topic}{n}", "topic": topic} for n in range(3) for topic in ("rope", "knot")]
    file = write_rows(tmp_path / "rows.jsonl", *rows)

    assert read(file, join="topic") == [["knot0", "knot1", "knot2"], ["rope0", "rope1", "rope2"]]


def test_a_document_without_topic_or_folder_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", {"text": "a", "topic": "x"}, {"text": "b"})

    for join, line in (("topic", "line 2"), ("folder", "line 1")):
        with pytest.raises(DataError, match=f"{line} has no {join}"):
            read(file, join=join)


def test_first_documents_are_skipped(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", *({"text": f"row {n}"} for n in range(4)))
    assert read(file, skip=3) == [["row 3"]]


def test_the_library_is_joined_by_package() -> None:
    groups = read_groups(SourceSettings(name="lib", text="stdlib", join="folder"))
    folders = [{Path(document.name).parts[1] for document in group} for group in groups]

    assert len(folders) > 3
    for tops in folders:
        assert len(tops) == 1 or all(top.endswith(".py") for top in tops), tops


@pytest.mark.parametrize("join", ["none", "folder"])
def test_no_module_that_is_measured_on_is_read(join: Any) -> None:
    groups = read_groups(SourceSettings(name="lib", text="stdlib", join=join))
    modules = {Path(document.name).parts[1].removesuffix(".py") for group in groups for document in group}

    assert len(modules) > 50
    assert modules <= set(module_splits()["train"])
