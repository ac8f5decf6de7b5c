"""`ropewalk demo`, on the tiny model: that it measures and tells everything, whatever came of it."""

import json

import pytest

from ropewalk.cli import demo
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.report.comparison import CLOSED_FORMS
from ropewalk.search.settings import SearchSettings
from ropewalk.text.settings import TextSplit

LENGTHS = [128, 256, 512, 1024]
TEXT = TextSplit(num_documents=2, num_validation_documents=2, num_test_documents=3)
SETTINGS = SearchSettings(budget=9)


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    """The folder of one small demo."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROPEWALK_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr(demo, "NUM_PASSKEYS", 2)
        demo.demonstrate(str(model), out, TEXT, SETTINGS, json=True)
    return out


def test_it_measures_every_scheme_and_what_a_user_would_do_instead(done):
    records = [json.loads(line) for line in (done / "records.jsonl").read_text().splitlines()]
    written = RescaleFactors.load(done / "factors.json").provenance.strategy
    also = [] if written in (*CLOSED_FORMS, "gradient") else [written]
    everything = ["untouched", *CLOSED_FORMS, "near-far", *also, "searched"]
    reported = [r for r in records if r.get("documents") == "report"]
    perplexities = [(r["factors"], r["length"]) for r in reported if r["metric"] == "perplexity"]
    assert perplexities == [
        (label, length) for label in [*everything, "sliding window"] for length in LENGTHS
    ]
    passkeys = [(r["factors"], r["length"]) for r in records if r["metric"] == "passkey"]
    assert passkeys == [(label, length) for label in everything for length in LENGTHS]
    sliding = [r for r in records if r["factors"] == "sliding window"]
    assert {(r["mode"], r["window"]) for r in sliding} == {("sliding", 128)}


def test_it_reports_on_other_documents_than_it_searched(done):
    provenance = RescaleFactors.load(done / "factors.json").provenance
    searched = provenance.settings.get("search", {}).get("data_sha256", provenance.data_sha256)
    records = [json.loads(line) for line in (done / "records.jsonl").read_text().splitlines()]
    found = {(r["documents"], r["data_sha256"]) for r in records if r["metric"] == "perplexity"}
    assert {role for role, _ in found} == {"search", "stop", "report"}
    assert len({sha for _, sha in found}) == len(found)  # no set is another's
    assert ("search", searched) in found


def test_it_leaves_pictures_and_factors(done):
    for name in ("perplexity.png", "factors.png"):
        assert (done / name).read_bytes().startswith(b"\x89PNG")
    assert RescaleFactors.load(done / "factors.json").target_length == 1024


def test_again_it_goes_on_where_it_stood_and_tells_the_same(done, model, monkeypatch, capfd):
    monkeypatch.setattr(demo, "NUM_PASSKEYS", 2)
    before = (done / "factors.json").read_bytes()
    demo.demonstrate(str(model), done, TEXT, SETTINGS)
    out = capfd.readouterr().out
    assert (done / "factors.json").read_bytes() == before
    assert "closed-form" in out
    assert "Passkeys found" in out
    assert "validation (n = 2)" in out
    assert "ropewalk search YOUR-MODEL --target-length 8x --text YOUR-TEXT --budget 9" in out
