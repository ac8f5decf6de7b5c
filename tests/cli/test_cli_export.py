"""`ropewalk export` and `ropewalk verify`: what they write and print, and every wrong input in one line."""

import json
import os
import signal
import time

import pytest
from completions_server import CompletionsServer, raw_server
from transformers import AutoModelForCausalLM

from ropewalk.factors.factor_set import FactorSet, load_set
from ropewalk.models.model_files import describe_model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.engines.transformers import PYTHON_OF_4


@pytest.fixture
def factors(model, tmp_path):
    """Write a set of factors for the model and give its file."""
    geometry = describe_model(model).geometry
    computed = longrope_attention_factor(4, geometry.original_length)

    def written(*, lengths=(512,), name="factors.json", theta=None, **changes):
        own = geometry if theta is None else type(geometry)(**{**geometry.as_dict(), "rope_theta": theta})
        entries = [
            scheme_factors("yarn:factor=4", own, length).replace(**{"attention_factor": computed, **changes})
            for length in lengths
        ]
        FactorSet.of(entries).save(tmp_path / name)
        return tmp_path / name

    return written


@pytest.fixture
def refused(ropewalk):
    def one_line(*arguments):
        ended = ropewalk(*arguments)
        assert ended.code == 2, ended.err
        assert ended.out == ""
        assert len(ended.err_lines) == 1, ended.err
        return ended.err_lines[0]

    return one_line


def test_hf_writes_and_tells_who_serves_it(ropewalk, model, factors, tmp_path):
    ended = ropewalk("export", "hf", model, "--factors", factors(), "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "512 tokens" in ended.out
    assert "--max-model-len 512" in ended.out


def test_hf_json(ropewalk, model, factors, tmp_path):
    file = factors(lengths=(128, 256, 512))
    out = tmp_path / "out"
    ended = ropewalk("export", "hf", model, "--factors", file, "--out", out, "--mode", "switching", "--json")
    (record,) = json.loads(ended.out)["records"]
    assert record["mode"] == "switching"
    assert record["dropped"] == [{"what": "the entry for 256 tokens", "cost": None}]


def test_what_is_left_out_is_measured_on_request(ropewalk, model, factors, tmp_path, books):
    file = factors(lengths=(128, 256, 512))
    ended = ropewalk("export", "hf", model, "--factors", file, "--out", tmp_path / "out", "--measure", books)
    assert ended.code == 0, ended.err
    assert "at 256 tokens, n = " in ended.err
    assert "at 256 tokens, n = " in (tmp_path / "out" / "README.md").read_text()


def test_the_card_shows_what_a_search_measured_on_its_report_documents(
    ropewalk, refused, model, shelf, factors, tmp_path
):
    run = tmp_path / "run"
    ended = ropewalk(
        "search", model, "--text", shelf, "--target-length", "4x", "--num-documents", "2", "--budget", "8",
        "--out", run, "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    records = json.loads(ended.out)["records"]
    export = ["export", "hf", model, "--run", run, "--out"]
    ended = ropewalk(*export, tmp_path / "out", "--factors", run / "factors.json")
    assert ended.code == 0, ended.err
    card = (tmp_path / "out" / "README.md").read_text()
    rows = {}
    for line in card.splitlines():
        if line.count("|") == 3:  # the first such table has the perplexities
            label, shown = line.strip("| ").split(" | ")
            rows.setdefault(label, shown)
    reported = {r["factors"]: r for r in records if (r["metric"], r["documents"]) == ("perplexity", "report")}
    assert len(reported) > 5
    beyond = {label.partition(":")[0] for label, record in reported.items() if "note" in record}
    assert beyond == {"none", "untouched"}
    for label, record in reported.items():
        shown = f"{record['value']:.3f} ({record['low']:.2f}-{record['high']:.2f})"
        shown += "\\*" if "note" in record else ""
        assert rows[label.replace("_", "\\_")] == shown
    for record in records:
        if record["documents"] != "report":
            assert f"{record['value']:.3f}" not in card
    assert "test documents" in card
    assert "n = 5" in card
    assert f"- run: {records[0]['run_id']}" in card
    # Measurements of another search say nothing of these factors.
    other = json.loads((run / "factors.json").read_text())
    other["provenance"]["settings"]["run_id"] = "0123456789abcdef"
    (tmp_path / "other.json").write_text(json.dumps(other))
    line = refused(*export, tmp_path / "other", "--factors", tmp_path / "other.json")
    assert "0123456789abcdef" in line
    assert not (tmp_path / "other").exists()


def test_repair(ropewalk, model, factors, tmp_path):
    ropewalk("export", "hf", model, "--factors", factors(), "--out", tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "saved")
    assert "again" in ropewalk("export", "repair", tmp_path / "saved").out
    assert "already" in ropewalk("export", "repair", tmp_path / "saved").out


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({"num_start_tokens": 4}, (), "--with-runtime"),
        ({"theta": 625.0}, (), "rope_theta is 625"),
        ({}, ("--mode", "switching"), "--mode pinned"),
        ({}, ("--serve-with", "ollama"), "'ollama'"),
        ({}, ("--run", "nowhere"), "measurements"),
        ({}, ("--adapter", "nowhere"), "nowhere"),
    ],
)  # fmt: skip
def test_hf_refuses_in_one_line(refused, model, factors, tmp_path, changes, more, words):
    said = refused("export", "hf", model, "--factors", factors(**changes), "--out", tmp_path / "out", *more)
    assert words in said
    assert not (tmp_path / "out").exists()


def test_a_near_window_is_refused_in_one_line(refused, model, factors, tmp_path):
    near_far = factors(near_window=16)
    for arguments in (
        ("export", "hf", model, "--factors", near_far, "--out", tmp_path / "out"),
        ("export", "hf", model, "--factors", near_far, "--out", tmp_path / "out", "--with-runtime"),
        ("export", "gguf", "scale-model", "--factors", near_far, "--out", tmp_path / "out"),
        ("verify", model, "--model", model, "--factors", near_far),
    ):
        assert "near window" in refused(*arguments)
        assert not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_or_stands_in_the_way(refused, model, factors, tmp_path):
    (tmp_path / "empty").mkdir()
    file = factors()
    assert "config.json" in refused(
        "export", "hf", tmp_path / "empty", "--factors", file, "--out", tmp_path / "out"
    )
    assert "exists" in refused("export", "hf", model, "--factors", file, "--out", tmp_path / "empty")
    assert "none.json" in refused(
        "export", "hf", model, "--factors", tmp_path / "none.json", "--out", tmp_path / "out"
    )
    assert "config.json" in refused("export", "repair", tmp_path / "empty")


def test_verify_refuses_in_one_line(refused, model, factors, tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON_OF_4, raising=False)
    file = factors()
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused("verify", tmp_path / "empty", "--model", model, "--factors", file)
    assert "make transformers4" in refused(
        "verify", model, "--model", model, "--factors", file, "--engine", "transformers4"
    )
    assert "can't be run" in refused(
        "verify", model, "--model", model, "--factors", file, "--python", tmp_path / "none"
    )
    asked = ("verify", model, "--model", model, "--factors", file)
    assert "127.0.0.1:9" in refused(*asked, "--endpoint", "http://127.0.0.1:9")
    assert "URL" in refused(*asked, "--endpoint", "http://127.0.0.1:99999")
    assert "--engine" in refused(*asked, "--endpoint", "http://127.0.0.1:9", "--engine", "transformers")
    assert "give --endpoint" in refused(*asked, "--context", "512")
    assert "vllm serve" in refused(*asked, "--engine", "vllm")


def test_an_engine_that_can_not_be_asked_is_no_mismatch(ropewalk, model, factors, tmp_path, books):
    """Such as transformers 4 without accelerate for an FP8 checkpoint."""
    file, out, python = factors(), tmp_path / "out", tmp_path / "python"
    ropewalk("export", "hf", model, "--factors", file, "--out", out)
    python.write_text(
        "#!/bin/sh\n[ $2 = --version ] && echo 4.57.6 || { echo needs accelerate >&2; exit 1; }\n"
    )
    python.chmod(0o755)
    about = ("--model", model, "--factors", file, "--text", books, "--lengths", "64")
    ended = ropewalk("verify", out, *about, "--python", python)
    assert (ended.code, ended.out) == (2, "")
    assert "needs accelerate" in ended.err_lines[-1]


def test_an_engine_is_not_asked_about_quantised_weights(ropewalk, refused, model, factors, tmp_path):
    file, out = factors(), tmp_path / "out"
    ropewalk("export", "hf", model, "--factors", file, "--out", out)
    config = json.loads((out / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (out / "config.json").write_text(json.dumps(config))
    assert "quantised" in refused("verify", out, "--model", model, "--factors", file)


def test_a_server_that_can_not_be_asked_is_no_mismatch(ropewalk, model, factors, tmp_path, books):
    file, out = factors(), tmp_path / "out"
    ropewalk("export", "hf", model, "--factors", file, "--out", out)
    about = ("--model", model, "--factors", file, "--text", books, "--lengths", "64")
    with raw_server(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 2**20, repeat=True, lists_models=True) as url:
        ended = ropewalk("verify", out, *about, "--endpoint", url)
    assert (ended.code, ended.out) == (2, "")
    assert "MiB" in ended.err_lines[-1]


def test_a_terminated_verify_leaves_no_engine_behind(ropewalk, start, model, factors, tmp_path):
    ropewalk("export", "hf", model, "--factors", factors(), "--out", tmp_path / "out")
    python, written, known = tmp_path / "python", tmp_path / "written", tmp_path / "pid"
    python.write_text(f"#!/bin/sh\necho $$ > {written}\nmv {written} {known}\nexec sleep 600\n")
    python.chmod(0o755)
    about = ["--model", model, "--factors", tmp_path / "factors.json"]
    process = start("verify", tmp_path / "out", *about, "--python", python)
    while not known.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Nothing was written." in err
    engine, deadline = int(known.read_text()), time.monotonic() + 30
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(engine, 0)
            time.sleep(0.05)


def test_verify_prints_a_table_and_ends_with_1_on_a_mismatch(ropewalk, model, factors, tmp_path, books):
    file, out = factors(), tmp_path / "out"
    ropewalk("export", "hf", model, "--factors", file, "--out", out)
    command = ("verify", out, "--model", model, "--factors", file, "--text", books, "--lengths", "64,128,129")
    right = ropewalk(*command)
    assert right.code == 0, right.out + right.err
    assert "Right: transformers" in right.out
    config = json.loads((out / "config.json").read_text())
    config["rope_scaling"]["long_factor"][-1] += 0.01
    (out / "config.json").write_text(json.dumps(config))
    wrong = ropewalk(*command, "--json")
    assert wrong.code == 1
    found = json.loads(wrong.out)
    assert found["is_right"] is False
    assert {check["what"] for check in found["checks"] if not check["is_right"]} >= {
        "frequencies",
        "config.json",
    }


def test_verify_asks_a_server_and_ends_with_1_on_a_mismatch(
    ropewalk, refused, model, factors, tmp_path, books
):
    file, out = factors(), tmp_path / "out"
    long = load_set(file).longest
    ropewalk("export", "hf", model, "--factors", file, "--out", out)
    command = ("verify", out, "--model", model, "--factors", file, "--text", books, "--endpoint")
    with CompletionsServer(model, long, context=long.target_length).running() as url:
        right = ropewalk(*command, url)
        assert right.code == 0, right.out + right.err
        assert "Right: server" in right.out
        assert "in parallel" in right.out
        assert "tiny" in refused(*command, url, "--served-model", "other")
        assert "from 10 to" in refused(*command, url, "--context", long.target_length + 1)
        assert "must be above 0" in refused(*command, url, "--limit", "0")
        short = ropewalk(*command, url, "--context", 100, "--json")
        lengths = {check["length"] for check in json.loads(short.out)["checks"]}
        assert lengths == {32, 92, None}  # a quarter of the window, and what leaves room for an answer
    plain = long.replace(rescale_factors=([1.0] * len(long.rescale_factors[0]),), attention_factor=1.0)
    with CompletionsServer(model, plain, context=long.target_length).running() as url:
        wrong = ropewalk(*command, url, "--json")
    assert wrong.code == 1
    found = json.loads(wrong.out)
    assert found["engine"] == "server"
    assert {check["what"] for check in found["checks"] if not check["is_right"]} == {
        "log-probabilities",
        "no factors would be noticed",
    }
