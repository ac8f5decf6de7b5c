"""The tables of a model card: which measurements stand side by side, under a caption that is true of all."""

import pytest

from ropewalk.evaluate.records import EvalRecord
from ropewalk.evaluate.settings import RetrievalSettings
from ropewalk.export.card_results import result_tables


def record(factors, value, length=2048, metric="perplexity", **more):
    given = {
        "documents": "report", "mode": "truncate", "source": "stdlib:held-out", "data_sha256": "aa", "n": 10,
        "low": value - 1, "high": value + 1,
    }  # fmt: skip
    if metric == "passkey":
        given = {"n": 20, "low": 0.76, "high": 0.99, "found": 19, "seed": 0}
    given = {"model": "base", **given, **more}
    return EvalRecord(metric=metric, value=value, length=length, factors=factors, seconds=1.0, **given)


def test_measurements_on_search_and_validation_documents_are_left_out_where_test_documents_exist():
    (table,) = result_tables(
        [
            record("yarn", 12.28),
            record("searched", 11.65),
            record("yarn", 9.1, documents="search", n=2, data_sha256="bb"),
            record("searched", 8.9, documents="search", n=2, data_sha256="bb"),
            record("searched", 8.43, documents="stop", n=3, data_sha256="cc"),
        ]
    )
    assert "test documents" in table.caption
    assert "n = 10" in table.caption
    assert table.rows == (("yarn", "12.280 (11.28-13.28)"), ("searched", "11.650 (10.65-12.65)"))


@pytest.mark.parametrize(("role", "name"), [("search", "search documents"), ("stop", "validation documents")])
def test_without_test_documents_the_caption_says_that_the_value_is_optimistic(role, name):
    (table,) = result_tables([record("searched", 8.9, documents=role)])
    assert name in table.caption
    assert "optimistic" in table.caption
    assert "test documents" not in table.caption


def test_other_documents_readings_sources_and_numbers_have_tables_of_their_own():
    others = [{"mode": "sliding", "window": 256, "stride": 64}, {"source": "books"}, {"n": 3}]
    tables = result_tables([record("yarn", 12.0), *(record("yarn", 13.0, **other) for other in others)])
    captions = [table.caption for table in tables]
    assert len(captions) == 4
    assert "one pass" in captions[0]
    assert "text books" in captions[1]
    assert "n = 3" in captions[2]
    assert "window of 256 tokens, stride 64" in captions[3]


def test_passkeys_and_nll_increases_have_intervals():
    increase = record("extended", 0.0123, metric="nll_increase", length=256)
    increase = EvalRecord.from_json({**increase.as_json(), "low": -0.001, "high": 0.0256})
    passkeys, increases = result_tables([record("extended", 0.95, metric="passkey"), increase])
    assert "20 generated prompts" in passkeys.caption
    assert passkeys.rows == (("extended", "19/20 (0.76-0.99)"),)
    assert "short inputs" in increases.caption
    assert increases.header == ("factors", "256 tokens")
    assert increases.rows == (("extended", "+0.0123 (-0.0010 to +0.0256)"),)


def test_questions_of_other_settings_have_tables_of_their_own():
    given = {"n": 20, "low": 0.76, "high": 0.99, "found": 19, "seed": 0, "documents": None, "mode": None}
    one, four = (
        record("yarn", 0.95, metric="retrieval", retrieval=RetrievalSettings(num_facts=num_facts), **given)
        for num_facts in (1, 4)
    )
    tables = result_tables([one, four])
    assert [table.rows for table in tables] == [(("yarn", "19/20 (0.76-0.99)"),)] * 2
    assert "1 fact" in tables[0].caption
    assert "4 facts" in tables[1].caption
    assert "stdlib" in tables[1].caption


def test_two_models_are_two_rows():
    (table,) = result_tables([record("extended", 12.0, length=256), record("extended", 9.0, model="tuned")])
    assert [row[0] for row in table.rows] == ["extended (base)", "extended (tuned)"]
    assert table.rows[0][2] == table.rows[1][1] == "-"
    assert "measured on" not in table.caption


def test_of_two_evaluations_the_last_one_counts():
    (table,) = result_tables([record("extended", 12.0), record("extended", 9.0)])
    assert table.rows == (("extended", "9.000 (8.00-10.00)"),)


def test_a_note_marks_its_value():
    note = "beyond the 512 tokens of these factors"
    (table,) = result_tables([record("yarn", 12.0, note=note), record("pi", 50.0)])
    assert [row[1].endswith(r"\*") for row in table.rows] == [True, False]
    assert table.notes == (rf"\* yarn: {note}",)


def test_without_an_interval_the_caption_mentions_none():
    (table,) = result_tables([record("yarn", 12.0, n=2, low=None, high=None)])
    assert "interval" not in table.caption
    assert table.rows == (("yarn", "12.000"),)


def test_models_and_texts_are_named_without_their_folders():
    (table,) = result_tables([record("yarn", 12.0, model="/home/me/model", source="/data/private/books")])
    assert "text books" in table.caption
    assert table.caption.endswith("measured on model.")
