"""`ropewalk evaluate`: labels, lengths and documents of the records, and their tables."""

import json

import pytest

from ropewalk.cli.options import factors_by_label
from ropewalk.cli.progress import Callbacks
from ropewalk.factors.rescale_factors import Provenance
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors

FIELDS = {"metric", "value", "length", "factors", "n", "low", "high"}


@pytest.fixture(scope="module")
def geometry(model):
    return load_model(model).geometry


def perplexity(ropewalk, model, books, *more):
    ended = ropewalk("evaluate", "perplexity", model, "--text", books, "--json", *more)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)["records"]


def test_every_scheme_and_file_at_every_length(ropewalk, model, books, geometry, tmp_path):
    file = tmp_path / "factors.json"
    scheme_factors("yarn", geometry, 512).save(file)
    records = perplexity(
        ropewalk,
        model,
        books,
        "--lengths",
        "512,128,2x",
        "--scheme",
        "yarn",
        "--scheme",
        "pi",
        "--factors",
        file,
    )
    assert [(r["factors"], r["length"]) for r in records] == [
        (label, length) for label in ("yarn", "pi", str(file)) for length in (128, 256, 512)
    ]
    for record in records:
        assert set(record) >= FIELDS | {"nll_sum_nats", "num_tokens", "mode", "seconds", "where"}
        assert record["metric"] == "perplexity"
        assert record["n"] == 3  # the short one is left out at every length
        assert record["num_tokens"] == 3 * (record["length"] - 1)
        assert record["low"] <= record["value"] <= record["high"]
        assert record["mode"] == "truncate"
    by_label = {(r["factors"], r["length"]): r["value"] for r in records}
    # A scheme takes the ratio of the longest length at every length, so the file and the scheme are the same.
    assert all(by_label["yarn", n] == by_label[str(file), n] for n in (128, 256, 512))
    assert by_label["yarn", 512] != by_label["pi", 512]


@pytest.mark.parametrize("scheme", ["near-far:window=0", "near-far:window=128", "near-far:window=300"])
def test_a_near_window_that_is_not_below_the_model_s_is_one_line(ropewalk, model, books, scheme):
    ended = ropewalk(
        "evaluate",
        "perplexity",
        model,
        "--text",
        books,
        "--lengths",
        "512",
        "--scheme",
        "pi",
        "--scheme",
        scheme,
    )
    assert (ended.code, ended.out) == (2, "")
    assert "window" in ended.err_lines[-1]


def test_near_far_factors_of_a_file_are_for_lengths_above_the_window(model, geometry, tmp_path):
    factors = scheme_factors("near-far", geometry, 512)
    factors.save(tmp_path / "factors.json")
    labelled = factors_by_label(load_model(model), None, [tmp_path / "factors.json"], 1024, "native")
    (at,) = labelled.values()
    assert at(geometry.original_length) is None
    assert at(geometry.original_length + 1) == at(1024) == factors


def test_near_far_reads_with_the_base_model_within_its_window(ropewalk, model, books):
    records = perplexity(
        ropewalk, model, books, "--lengths", "128,256", "--scheme", "none", "--scheme", "near-far"
    )
    by_label = {(r["factors"], r["length"]): r["value"] for r in records}
    assert by_label["near-far", 128] == pytest.approx(by_label["none", 128])
    assert by_label["near-far", 256] != pytest.approx(by_label["none", 256], rel=1e-4)


def test_dynamic_ntk_takes_each_lengths_own_ratio(ropewalk, model, books):
    records = perplexity(
        ropewalk,
        model,
        books,
        "--lengths",
        "128,512",
        "--scheme",
        "dynamic-ntk",
        "--scheme",
        "ntk",
        "--scheme",
        "none",
    )
    value = {(r["factors"], r["length"]): r["value"] for r in records}
    assert value["dynamic-ntk", 128] == value["none", 128]
    assert value["dynamic-ntk", 512] == value["ntk", 512]
    assert value["ntk", 128] != value["none", 128]


def test_without_schemes_the_model_is_measured_as_it_stands(ropewalk, model, books):
    (record,) = perplexity(ropewalk, model, books, "--lengths", "1x")
    assert record["factors"] == "untouched"
    (none,) = perplexity(ropewalk, model, books, "--lengths", "1x", "--scheme", "none")
    assert none["value"] == pytest.approx(record["value"], rel=1e-4)


def test_a_sliding_window_needs_a_stride_and_says_both(ropewalk, model, books):
    (record,) = perplexity(ropewalk, model, books, "--lengths", "512", "--mode", "sliding", "--stride", "64")
    assert (record["mode"], record["stride"], record["window"]) == ("sliding", 64, 128)
    ended = ropewalk(
        "evaluate", "perplexity", model, "--text", books, "--lengths", "512", "--mode", "sliding"
    )
    assert ended.code == 2
    assert "--stride" in ended.err


def test_fewer_than_three_documents_have_no_interval(ropewalk, model, books):
    (record,) = perplexity(ropewalk, model, books, "--lengths", "256", "--num-documents", "2")
    assert record["n"] == 2
    assert record["low"] is None
    assert record["high"] is None


def test_the_table_has_a_row_a_label_and_a_column_a_length(ropewalk, model, books):
    ended = ropewalk(
        "evaluate",
        "perplexity",
        model,
        "--text",
        books,
        "--lengths",
        "128,256",
        "--scheme",
        "yarn:factor=2,beta_fast=8",
    )
    assert "128 tokens" in ended.out
    assert "256 tokens" in ended.out
    assert any(line.startswith("yarn:factor=2,beta_fast=8 ") for line in ended.out.splitlines())
    assert "3 documents" in ended.err
    assert "1 shorter" in ended.err


def test_where_it_ran_is_recorded(ropewalk, model, books):
    (record,) = perplexity(
        ropewalk, model, books, "--lengths", "128", "--dtype", "bfloat16", "--attn-implementation", "eager"
    )
    assert record["where"] == {
        "device": "cpu", "dtype": "bfloat16", "attn_implementation": "eager", "revision": None,
    }  # fmt: skip


def test_passkeys_are_a_share_with_an_interval(ropewalk, model):
    ended = ropewalk(
        "evaluate",
        "passkey",
        model,
        "--lengths",
        "128,256",
        "--scheme",
        "yarn",
        "--num-trials",
        "4",
        "--json",
    )
    assert ended.code == 0, ended.err
    records = json.loads(ended.out)["records"]
    assert [r["length"] for r in records] == [128, 256]
    for record in records:
        assert set(record) >= FIELDS
        assert record["metric"] == "passkey"
        assert record["n"] == 4
        assert 0 <= record["low"] <= record["value"] <= record["high"] <= 1
    assert "of 4 found" in ended.err


def test_the_passkey_table(ropewalk, model):
    ended = ropewalk("evaluate", "passkey", model, "--lengths", "128", "--num-trials", "2")
    assert ended.code == 0
    assert "/2 (" in ended.out
    assert "untouched" in ended.out


def test_factors_of_other_weights_are_used_with_a_warning_that_names_both(
    ropewalk, model, books, geometry, tmp_path
):
    file = tmp_path / "factors.json"
    provenance = Provenance(model="another-model", weights_sha256="0" * 64)
    scheme_factors("yarn", geometry, 256).replace(provenance=provenance).save(file)
    ended = ropewalk("evaluate", "perplexity", model, "--text", books, "--lengths", "256", "--factors", file)
    assert ended.code == 0
    (warning,) = [line for line in ended.err_lines if line.startswith("warning:")]
    assert "another-model" in warning
    assert str(model) in warning


def test_of_several_factors_the_last_is_compared_with_the_others_by_document(ropewalk, model, books):
    given = ["evaluate", "perplexity", model, "--text", books, "--lengths", "128,512"]
    given += ["--scheme", "yarn", "--scheme", "ntk", "--scheme", "pi"]
    ended = ropewalk(*given, "--json")
    document = json.loads(ended.out)
    by_label = {(r["factors"], r["length"]): r for r in document["records"]}
    compared = {(c["theirs"], c["length"]): c for c in document["comparisons"]}
    assert set(compared) == {(label, length) for label in ("yarn", "ntk") for length in (128, 512)}
    for (theirs, length), found in compared.items():
        ours, other = by_label["pi", length], by_label[theirs, length]
        each = [
            (a["nll_sum_nats"] - b["nll_sum_nats"]) / a["num_tokens"]
            for a, b in zip(ours["by_document"], other["by_document"], strict=True)
        ]
        assert found["ours"] == "pi"
        assert found["nats"] == pytest.approx(sum(each) / 3)
        assert found["low"] <= found["nats"] <= found["high"]
        assert (found["decision"] == "decided") is (found["low"] > 0 or found["high"] < 0)
    shown = ropewalk(*given).out
    assert "paired by document" in shown
    assert sum("decided" in line for line in shown.splitlines()) == 2


@pytest.mark.parametrize("metric", ["perplexity", "passkey"])
def test_a_length_beyond_the_factors_is_noted_in_its_row(ropewalk, model, books, geometry, tmp_path, metric):
    file = tmp_path / "factors.json"
    scheme_factors("yarn", geometry, 256).save(file)
    more = ["--text", books] if metric == "perplexity" else ["--num-trials", "2"]
    given = ["evaluate", metric, model, "--lengths", "256,512", "--factors", file, *more]
    given += ["--scheme", "yarn", "--scheme", "ntk:factor=2", "--scheme", "none", "--scheme", "dynamic-ntk"]
    ended = ropewalk(*given, "--json")
    notes = {(r["factors"], r["length"]): r.get("note") for r in json.loads(ended.out)["records"]}
    noted = {key for key, note in notes.items() if note}
    assert noted == {(str(file), 512), ("ntk:factor=2", 512), ("none", 256), ("none", 512)}
    assert "256 tokens" in notes[str(file), 512]
    assert "128 tokens" in notes["none", 512]
    shown = ropewalk(*given)
    assert any(line.startswith(f"* {file}:") and "256 tokens" in line for line in shown.out.splitlines())
    assert any(str(file) in line and "512 tokens" in line for line in shown.err_lines)


def test_within_the_window_nothing_is_noted_and_beyond_it_the_base_model_is(ropewalk, model, books):
    within, beyond = perplexity(ropewalk, model, books, "--lengths", "128,129")
    assert (within["factors"], beyond["factors"]) == ("untouched", "untouched")
    assert "note" not in within
    assert "128 tokens" in beyond["note"]


def test_a_folder_with_a_scaling_of_its_own_is_not_called_untouched(
    ropewalk, model, books, geometry, tmp_path
):
    scheme_factors("yarn:attention_factor=1", geometry, 256).save(tmp_path / "factors.json")
    out = tmp_path / "exported"
    ended = ropewalk("export", "hf", model, "--factors", tmp_path / "factors.json", "--out", out)
    assert ended.code == 0, ended.err
    within, beyond = perplexity(ropewalk, out, books, "--lengths", "256,512")
    assert within["factors"] == beyond["factors"] == "as configured: longrope 256"
    assert "note" not in within
    assert "256 tokens" in beyond["note"]
    shown = ropewalk("evaluate", "passkey", out, "--lengths", "256", "--num-trials", "2").out
    assert "as configured: longrope 256" in shown
    assert "untouched" not in shown


def test_records_of_searched_factors_name_the_search(ropewalk, model, books, geometry, tmp_path):
    made = Provenance(strategy="gradient", seed=3, settings={"run_id": "1234", "budget": 27})
    scheme_factors("yarn", geometry, 256).replace(provenance=made).save(tmp_path / "factors.json")
    searched, yarn = sorted(
        perplexity(
            ropewalk, model, books, "--lengths", "256", "--scheme", "yarn", "--factors",
            tmp_path / "factors.json",
        ),
        key=lambda record: record["factors"],
    )  # fmt: skip
    assert [searched[key] for key in ("run_id", "strategy", "search_seed", "budget")] == [
        "1234", "gradient", 3, 27,
    ]  # fmt: skip
    assert not {"run_id", "strategy", "search_seed", "budget"} & set(yarn)


def retrieval(ropewalk, model, books, *more):
    return ropewalk(
        "evaluate", "retrieval", model, "--text", books, "--lengths", "256,512", "--num-questions", "6", *more
    )


def test_retrieval_is_a_share_with_an_interval_and_paired_differences(ropewalk, model, books):
    ended = retrieval(
        ropewalk, model, books, "--scheme", "yarn", "--scheme", "pi", "--num-facts", "2",
        "--distractors", "1", "--wordings", "held-out", "--keys", "name", "--seed", "3", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert [(r["factors"], r["length"]) for r in document["records"]] == [
        ("yarn", 256), ("yarn", 512), ("pi", 256), ("pi", 512),
    ]  # fmt: skip
    for record in document["records"]:
        assert set(record) >= FIELDS | {
            "found",
            "by_depth",
            "by_question",
            "source",
            "data_sha256",
            "seconds",
        }
        assert (record["metric"], record["n"], record["seed"]) == ("retrieval", 6, 3)
        assert 0 <= record["low"] <= record["value"] <= record["high"] <= 1
        assert len({result["document"] for result in record["by_question"]}) == 3
        asked = record["retrieval"]
        assert (asked["num_facts"], asked["num_distractors"], asked["wordings"]) == (2, 1, "held-out")
        assert not asked["one_question_per_reading"]
    assert [(c["ours"], c["theirs"], c["length"]) for c in document["comparisons"]] == [
        ("pi", "yarn", 256), ("pi", "yarn", 512),
    ]  # fmt: skip
    assert "of 6 found" in ended.err


def test_the_retrieval_tables_name_the_questions_and_decide(ropewalk, model, books):
    ended = retrieval(ropewalk, model, books, "--scheme", "yarn", "--scheme", "pi", "--one-question")
    assert ended.code == 0, ended.err
    assert "one question per reading" in ended.out
    assert "known wordings" in ended.out
    assert "/6 (" in ended.out
    assert "paired by question" in ended.out
    assert sum("decided" in line for line in ended.out.splitlines()) == 1


def test_passkeys_of_several_factors_are_paired_too(ropewalk, model):
    given = ["evaluate", "passkey", model, "--lengths", "256", "--num-trials", "4"]
    ended = ropewalk(*given, "--scheme", "yarn", "--scheme", "pi", "--json")
    (compared,) = json.loads(ended.out)["comparisons"]
    assert (compared["ours"], compared["theirs"], compared["n"]) == ("pi", "yarn", 4)
    assert compared["low"] <= compared["share"] <= compared["high"]


@pytest.mark.parametrize(
    ("options", "noun"),
    [
        (["--num-facts", "30"], "facts"),
        (["--num-facts", "0"], "num-facts"),
        (["--num-facts", "40", "--distractors", "40"], "facts"),
        (["--wordings", "unknown"], "wordings"),
        (["--lengths", "100000"], "document"),
        (["--chat"], "template"),
    ],
)
def test_wrong_questions_are_refused_in_one_line(ropewalk, model, books, options, noun):
    ended = retrieval(ropewalk, model, books, *options)
    assert ended.code == 2
    assert ended.out == ""
    assert noun in ended.err_lines[-1]
    assert all(line.startswith("Text: ") for line in ended.err_lines[:-1])


MEASUREMENTS = {
    "passkey": ["--lengths", "128,256", "--num-trials", "5"],
    "retrieval": ["--lengths", "256,512", "--num-questions", "5"],
}


def timeless(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


@pytest.mark.parametrize("metric", MEASUREMENTS)
def test_an_interrupted_measurement_asks_only_what_was_not_answered(
    ropewalk, model, books, tmp_path, monkeypatch, metric
):
    text = ["--text", books] if metric == "retrieval" else []
    given = ["evaluate", metric, model, *text, *MEASUREMENTS[metric], "--scheme", "yarn", "--scheme", "pi"]
    whole = ropewalk(*given, "--json")
    out, asked = tmp_path / "answers.jsonl", []

    def count(self, progress, stop_at=None):
        asked.append(progress.answer)
        if len(asked) == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Callbacks, "on_answer", lambda *seen: count(*seen, stop_at=8))
    stopped = ropewalk(*given, "--out", out)
    assert stopped.code == 130
    assert str(out) in stopped.err_lines[-1]
    first = list(asked)
    asked.clear()
    monkeypatch.setattr(Callbacks, "on_answer", count)
    ended = ropewalk(*given, "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert (len(first), len(asked)) == (8, 12)
    assert not [answer for answer in asked if answer in first]
    ours, theirs = json.loads(ended.out), json.loads(whole.out)
    assert timeless(ours["records"]) == timeless(theirs["records"])
    assert ours["comparisons"] == theirs["comparisons"]
    again = ropewalk(*given, "--out", out, "--json")
    assert json.loads(again.out)["records"] == ours["records"]
    assert len(asked) == 12


@pytest.mark.parametrize(
    ("options", "noun"),
    [
        (["--scheme", "pi", "--seed", "1"], "seed"),
        (["--scheme", "yarn"], "factors"),
        (["--scheme", "pi", "--lengths", "128"], "data_sha256"),
        (["--scheme", "pi", "--dtype", "bfloat16"], "dtype"),
    ],
)
def test_answers_of_another_measurement_are_refused_in_one_line(
    ropewalk, model, books, tmp_path, options, noun
):
    out = tmp_path / "answers.jsonl"
    given = ["evaluate", "retrieval", model, "--text", books, "--num-questions", "2", "--out", out]
    assert ropewalk(*given, "--lengths", "256", "--scheme", "pi").code == 0
    before = out.read_bytes()
    ended = ropewalk(*given, "--lengths", "256", *options)
    assert ended.code == 2
    assert ended.out == ""
    assert noun in ended.err_lines[-1]
    assert out.read_bytes() == before
