"""The tables of a model card: what may stand side by side, under a caption that is true of it all."""

import pytest

from ropewalk.evaluate.records import EvalRecord
from ropewalk.export.card_results import results


def record(factors, value, length=2048, metric="perplexity", **more):
    given = {
        "documents": "report", "mode": "truncate", "source": "stdlib:held-out", "data_sha256": "aa", "n": 10,
        "low": value - 1, "high": value + 1,
    }  # fmt: skip
    if metric == "passkey":
        given = {"n": 20, "low": 0.76, "high": 0.99, "found": 19, "seed": 0}
    given = {"model": "base", **given, **more}
    return EvalRecord(metric=metric, value=value, length=length, factors=factors, seconds=1.0, **given)


def tables_of(text):
    """Each table's caption and its rows, as lists of cells."""
    found = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("| "):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            found[-1][1].extend([rows[0], *rows[2:]])
        elif not lines[0].startswith("\\*"):
            found.append((block, []))
    return found


def test_searched_factors_are_not_shown_by_the_documents_that_chose_them():
    shown = results(
        [
            record("yarn", 12.28),
            record("searched", 11.65),
            record("yarn", 9.1, documents="search", n=2, data_sha256="bb"),
            record("searched", 8.9, documents="search", n=2, data_sha256="bb"),
            record("searched", 8.43, documents="stop", n=3, data_sha256="cc"),
        ]
    )
    ((caption, rows),) = tables_of(shown)
    assert "report documents" in caption
    assert "n = 10" in caption
    assert rows[1:] == [["yarn", "12.280 (11.28-13.28)"], ["searched", "11.650 (10.65-12.65)"]]
    assert "8.43" not in shown


@pytest.mark.parametrize(("role", "said"), [("search", "fitted"), ("stop", "flatters")])
def test_without_report_documents_a_table_says_what_its_documents_were(role, said):
    ((caption, _),) = tables_of(results([record("searched", 8.9, documents=role)]))
    assert f"{role} documents" in caption
    assert said in caption
    assert "report" not in caption


def test_what_differs_in_documents_way_of_reading_source_or_number_is_in_tables_of_its_own():
    others = [{"mode": "sliding", "window": 256, "stride": 64}, {"source": "books"}, {"n": 3}]
    shown = tables_of(results([record("yarn", 12.0), *(record("yarn", 13.0, **other) for other in others)]))
    assert len(shown) == 4
    captions = [caption for caption, _ in shown]
    assert "one pass over each" in captions[0]
    assert "a window of 256 tokens slid over each, stride 64" in captions[3]
    assert "text books" in captions[1]
    assert "n = 3" in captions[2]


def test_passkeys_and_the_cost_of_short_inputs_have_intervals():
    rise = record("extended", 0.0123, metric="nll_rise", length=256)
    rise = EvalRecord.from_json({**rise.as_json(), "low": -0.001, "high": 0.0256})
    shown = tables_of(results([record("extended", 0.95, metric="passkey"), rise]))
    (about_keys, keys), (about_rise, rises) = shown
    assert "20 generated prompts" in about_keys
    assert keys[1] == ["extended", "19/20 (0.76-0.99)"]
    assert "short inputs lost" in about_rise
    assert rises == [["factors", "256 tokens"], ["extended", "+0.0123 (-0.0010 to +0.0256)"]]


def test_two_models_are_two_rows():
    shown = results([record("extended", 12.0, length=256), record("extended", 9.0, model="tuned")])
    ((_, rows),) = tables_of(shown)
    assert [row[0] for row in rows[1:]] == ["extended (base)", "extended (tuned)"]
    assert rows[1][2] == rows[2][1] == "-"


def test_of_two_evaluations_the_last_one_counts():
    ((_, rows),) = tables_of(results([record("extended", 12.0), record("extended", 9.0)]))
    assert rows[1] == ["extended", "9.000 (8.00-10.00)"]


def test_a_note_stands_below_its_table():
    shown = results([record("yarn", 12.0, note="beyond the 512 tokens of these factors"), record("pi", 50.0)])
    ((_, rows),) = tables_of(shown)
    assert rows[1][1].endswith("\\*")
    assert not rows[2][1].endswith("*")
    assert shown.endswith("\\* yarn: beyond the 512 tokens of these factors")


def test_without_intervals_none_are_spoken_of():
    shown = results([record("yarn", 12.0, n=2, low=None, high=None)])
    assert "interval" not in shown
    assert "| yarn | 12.000 |" in shown


def test_names_of_others_are_escaped():
    evil = "a|b <script>[x](y)"
    shown = results([record(evil, 12.0, source=evil, note=evil, model=evil)])
    assert "<script>" not in shown
    assert "[x](" not in shown
    ((_, rows),) = tables_of(shown.replace("\\|", ""))
    assert len(rows[1]) == 2
