"""docs/api.md is what scripts/make_reference.py makes of the source."""

import importlib.util

from docs_pages import ROOT

import ropewalk


def make_reference():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    script = make_reference()
    expected = script.reference()
    assert script.PAGE.read_text(encoding="utf-8") == expected, "run `python scripts/make_reference.py`"
    for name in ropewalk.__all__:
        assert f"\n### {name}\n" in expected
