import json

import pytest

from ropewalk.errors import ExportError, RunFolderError
from ropewalk.store import envelope, read_document, read_json, read_lines, write_document, write_lines

REMEDY = "export again"


def refusal(path, **changes):
    with pytest.raises(ExportError) as error:
        read_document(path, ExportError, **({"file_format": "ropewalk.x", "remedy": REMEDY} | changes))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_document_is_read_back(tmp_path):
    document = envelope("ropewalk.x", 1, values=[1.5, None])
    write_document(tmp_path / "a.json", document)
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["format", "version", "values"]
    assert read_document(tmp_path / "a.json", ExportError, file_format="ropewalk.x", remedy="") == document


@pytest.mark.parametrize(
    ("content", "noun"),
    [
        ("", "JSON"),
        ('{"format": "ropewalk.x", "version": 1', "JSON"),
        ('{"format": "ropewalk.x", "version": 1, "version": 1}', "twice"),
        ("[]", "object"),
        ("{}", "format"),
        ('{"format": "ropewalk.y", "version": 1}', "ropewalk.x"),
        ('{"format": "ropewalk.x"}', "version"),
        ('{"format": "ropewalk.x", "version": true}', "version True"),
        ('{"format": "ropewalk.x", "version": 1.0}', "version 1.0"),
        ('{"format": "ropewalk.x", "version": 0}', "version 0"),
        ('{"format": "ropewalk.x", "version": 3}', "update"),
    ],
)
def test_what_is_no_such_document_is_refused(tmp_path, content, noun):
    (tmp_path / "a.json").write_text(content)
    assert noun in refusal(tmp_path / "a.json", versions=(1, 2))


def test_a_missing_and_a_large_file_are_refused(tmp_path, monkeypatch):
    assert REMEDY in refusal(tmp_path / "missing.json")
    monkeypatch.setattr("ropewalk.store.documents.LARGEST_JSON_BYTES", 4)
    (tmp_path / "a.json").write_text("{    }")
    assert "larger" in refusal(tmp_path / "a.json")


def test_infinity_is_read_from_files_of_other_programs_only(tmp_path):
    """Old versions of transformers write it into `config.json`."""
    (tmp_path / "config.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    values = read_json(tmp_path / "config.json", ExportError, remedy=REMEDY, allow_nan=True)
    assert values["time_step_limit"][1] == float("inf")
    with pytest.raises(ExportError, match="Infinity"):
        read_json(tmp_path / "config.json", ExportError, remedy=REMEDY)


def test_a_line_that_is_not_read_is_named(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"n": 1}, {"n": 2}])
    assert read_lines(tmp_path / "a.jsonl", lambda value: value["n"]) == [1, 2]
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": 2\n')
    with pytest.raises(RunFolderError, match="line 2"):
        read_lines(tmp_path / "a.jsonl", lambda value: value["n"])
