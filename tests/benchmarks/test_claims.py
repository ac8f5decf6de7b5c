"""`benchmarks/claims.py`: what it says of numbers; a run measures once, and a report invents nothing."""

import json
import sys
from pathlib import Path

import pytest
import torch

from ropewalk.evaluate.nll import NllSum
from ropewalk.evaluate.records import EvalRecord
from ropewalk.models.model import load_model
from ropewalk.report.comparison import SLIDING
from ropewalk.text.tokens import TokenDocument

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import claims
import restated
from miniature.attention import attention_on_first
from miniature.bench import Bench
from miniature.readings import Reading, against, verdict
from miniature.settings import Settings


@pytest.fixture
def command(tiny_model_folder, tmp_path):
    """The script at its smallest, on the tiny model (window 64)."""
    sizes = ["--ratios", "2", "--sweep-ratios", "2", "--start-tokens", "0,4", "--num-documents", "3",
             "--budget", "6", "--search-documents", "1", "--stop-documents", "1",
             "--tuned-ratio", "4",
             "--schemes", "none,pi,ntk,dynamic-ntk,yarn,yarn-paper,mrrope-pro"]  # fmt: skip
    for name in ("searched", "reported"):
        rows = [{"text": f"{name} {n}: " + f"line {n} of {name}, and more. " * 24} for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(what, *more):
        texts = ["--search-text", str(tmp_path / "searched.jsonl"),
                 "--report-text", str(tmp_path / "reported.jsonl")]  # fmt: skip
        told = ["--model", str(tiny_model_folder), *texts, *sizes] if what == "run" else []
        claims.main([what, "--out", str(tmp_path / "out"), *told, *more])

    return run


def cells(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out" / "cells").iterdir()}


def test_a_run_measures_each_cell_once_and_the_report_names_what_is_missing(command, tmp_path, capsys):
    command("run", "--table", "untuned")
    first = cells(tmp_path)
    assert first
    lost = next(iter(sorted(first)))
    (tmp_path / "out" / "cells" / lost).unlink()
    command("run", "--table", "untuned,start-tokens,attention")
    second = cells(tmp_path)
    assert {name for name in first if second[name] != first[name]} == {lost}
    command("report", "--results", str(tmp_path / "results"))
    (page,) = (tmp_path / "results").glob("*.md")
    text = page.read_text()
    missing = next(line for line in text.splitlines() if line.startswith("Missing: "))
    assert "untuned" not in missing
    assert "second-interpolation" in missing
    assert "not measured" not in text
    assert cells(tmp_path) == second
    (raw,) = (tmp_path / "results").glob("*.json")
    tables = json.loads(raw.read_text())["tables"]
    # 7 closed forms of which dynamic NTK is NTK, 3 searches and the model as it stands, 3 documents each;
    # searches that find the same share their cells.
    assert 3 * (6 + 1 + 1) <= len(tables["untuned"]) <= 3 * (6 + 3 + 1)
    assert not tables["tuned"]
    # The page can be made again from what is published: each cell is the one that was measured.
    restated.restore(json.loads(raw.read_text()), tmp_path / "again")
    names = {path.name for path in (tmp_path / "again" / "cells").iterdir()}
    assert names == set(second)
    for name in names:
        published, measured = (
            json.loads((tmp_path / to / "cells" / name).read_text()) for to in ("again", "out")
        )
        assert published["result"] == measured["result"]
    capsys.readouterr()


def test_a_report_of_nothing_says_that_all_is_missing(command, tmp_path, tiny_model_folder, capsys):
    command("report", "--model", str(tiny_model_folder), "--results", str(tmp_path / "results"),
            "--search-text", str(tmp_path / "searched.jsonl"), "--ratios", "2", "--sweep-ratios", "2",
            "--report-text", str(tmp_path / "reported.jsonl"), "--tuned-ratio", "2")  # fmt: skip
    text = capsys.readouterr().out
    assert text.count("MISSING") == 10
    assert "Holds" not in text


def test_an_unknown_table_and_a_folder_without_a_run_are_refused(command, tmp_path):
    with pytest.raises(SystemExit, match="nonsense"):
        command("run", "--table", "nonsense")
    with pytest.raises(SystemExit, match="ropewalk extend"):
        command("run", "--run", str(tmp_path))


def reading(*nats):
    sums = tuple(NllSum(nll_sum_nats=float(value), num_tokens=10) for value in nats)
    return Reading(label="some", length=11, sums=sums, last_halves=sums)


def test_what_the_run_measured_on_the_same_documents_is_not_measured_again(tiny_model_folder, tmp_path):
    text = tmp_path / "reported.jsonl"
    text.write_text(
        "".join(json.dumps({"text": f"{n}: " + "line, and more. " * 20}) + "\n" for n in range(3))
    )
    sums = tuple(NllSum(nll_sum_nats=nats, num_tokens=10) for nats in (20.0, 21.0, 22.0))
    record = EvalRecord(
        metric="perplexity", value=8.2, length=128, factors=SLIDING, n=3, low=None, high=None, seconds=1.0,
        model="base", by_document=sums, last_half_by_document=sums[::-1],
    )  # fmt: skip
    known = {}

    class Run:
        def perplexity(self, label, length, data_sha256):
            return known.get((label, length, data_sha256))

    settings = Settings(model=str(tiny_model_folder), report_text=str(text))
    bench = Bench(settings, tmp_path / "out", Run())
    bench.begin("show", "some")
    assert bench.sliding(128) is None, "the run measured other documents"
    known[SLIDING, 128, bench.documents(128).data_sha256] = record
    found = bench.sliding(128)
    assert (found.sums, found.last_halves) == (sums, sums[::-1])
    assert list(bench.used["some"].values()) == [{"record": record.as_json()}]


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ((18, 19, 20), (20, 21, 22), "Holds"),
        ((22, 23, 24), (20, 21, 22), "Does not hold"),
        ((18, 21, 24), (20, 21, 22), "Undecided"),
        ((18, 19), (20, 21), "Cannot be said with 2 document(s), which has it lower"),
    ],
)
def test_a_verdict_follows_the_interval_of_the_difference(ours, theirs, said):
    assert verdict(against(reading(*ours), reading(*theirs))) == said


def test_a_difference_is_of_perplexities_on_the_same_documents():
    difference = against(reading(18, 19, 20), reading(20, 21, 22))
    ratio = torch.tensor(-0.2).expm1().item()  # 2 nats in 10 tokens, on every document
    assert difference.ratio == pytest.approx(ratio)
    assert (difference.low, difference.high) == pytest.approx((-0.2, -0.2))
    assert str(difference) == "-18.1% (-18.1% to -18.1%)"


def test_what_is_not_measured_leaves_a_verdict_open():
    assert verdict(against(reading(1, 2, 3), None)) == "Cannot be said yet"


def test_attention_on_all_that_a_query_sees_is_whole(tiny_model_folder):
    loaded = load_model(tiny_model_folder, attn_implementation="eager")
    ids = torch.arange(2, 34)
    found = attention_on_first(loaded, TokenDocument(name="some", ids=ids), None, [1, 4, 16])
    with torch.no_grad():
        weights = loaded.model(input_ids=ids.unsqueeze(0), output_attentions=True).attentions
    for layer, row in enumerate(found["by_layer"]):
        assert row == sorted(row)
        assert row[1] == pytest.approx(float(weights[layer][0, :, 16:, :4].sum(-1).mean()), abs=1e-6)
    assert found["uniform"][0] == pytest.approx(sum(1 / keys for keys in range(17, 33)) / 16)
