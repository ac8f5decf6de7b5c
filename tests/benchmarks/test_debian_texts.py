"""`benchmarks/debian_texts.py`: texts are fetched once, and again where one has changed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import debian_texts

TEXTS = (debian_texts.DebianText("a-doc", "usr/a.txt"), debian_texts.DebianText("b-doc", "usr/b.txt"))


@pytest.fixture
def downloads(monkeypatch):
    made = []

    def download(text):
        made.append(text.package)
        return "1.0", f"text of {text.package}".encode()

    monkeypatch.setattr(debian_texts, "_download", download)
    return made


def test_texts_are_fetched_once(tmp_path, downloads):
    first = debian_texts.fetch(tmp_path, TEXTS)
    assert [one.file for one in first] == ["00-a-doc.txt", "01-b-doc.txt"]
    assert (tmp_path / "01-b-doc.txt").read_text() == "text of b-doc"
    assert debian_texts.fetch(tmp_path, TEXTS) == first
    assert downloads == ["a-doc", "b-doc"]


def test_a_changed_text_is_fetched_again(tmp_path, downloads):
    debian_texts.fetch(tmp_path, TEXTS)
    (tmp_path / "00-a-doc.txt").write_text("another")
    debian_texts.fetch(tmp_path, TEXTS)
    assert (tmp_path / "00-a-doc.txt").read_text() == "text of a-doc"


def test_a_text_begins_with_a_whole_line_after_its_first_quarter():
    lines = [f"line {number:03}\n" for number in range(100)]
    assert debian_texts._cut("".join(lines).encode()).decode() == "".join(lines[26:])
