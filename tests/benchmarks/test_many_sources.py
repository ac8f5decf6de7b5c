"""`benchmarks/many_sources.py`: which runs there are, their documents, and how their outcomes are decided."""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pytest
from transformers import AutoTokenizer

from ropewalk.models.scale_model import scale_model_path
from sources.outcomes import Outcome, outcomes_of, widened
from sources.runs import RETURNED, Run, draw_documents, selected_runs
from sources.texts import is_prose_or_code, page_texts


def test_the_20_runs_are_balanced():
    runs = selected_runs()
    assert len(runs) == len({run.seed for run in runs}) == 20
    assert set(Counter(run.model for run in runs).values()) == {10}
    assert set(Counter(run.ratio for run in runs).values()) == {5}
    assert sorted(Counter(run.source for run in runs).values()) == [6, 7, 7]


@pytest.fixture
def texts(tmp_path):
    """12 documents that differ from the first token on."""
    (tmp_path / "pages").mkdir()
    for number in range(12):
        (tmp_path / "pages" / f"{number:02}.txt").write_text(f"{number} is a number of pages.\n" * 200)
    return tmp_path


def test_the_seed_draws_disjoint_documents(texts):
    tokenizer = AutoTokenizer.from_pretrained(scale_model_path())

    def names(seed):
        run = Run(model="scale-model", source="pages", ratio=2, seed=seed)
        split = draw_documents(run, tokenizer, texts, 4)
        return [[document.name for document in one.documents] for one in split.by_role.values()]

    assert list(map(len, names(0))) == [5, 3, 4]
    assert len({name for one in names(0) for name in one}) == 12
    assert names(0) == names(0) != names(1)


def outcome(returned, **closed_forms):
    """Nats of documents of 100 tokens; everything is found."""
    nats = {name: [[one, 100] for one in each] for name, each in {RETURNED: returned, **closed_forms}.items()}
    return Outcome(run=selected_runs()[0], search={}, nats=nats, found={name: ["1111"] * 4 for name in nats})


BASE = (100, 140, 120, 90)


def shifted(*by):
    return [base + change for base, change in zip(BASE, by, strict=True)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [((1, 1.1, 0.9, 1), "loses"), ((-1, -1.1, -0.9, -1), "wins"), ((1, -1, 1, -1), "undecided")],
)
def test_a_run_is_decided_against_the_near_closed_forms(change, expected):
    one = outcome(shifted(*change), yarn=BASE, pi=shifted(100, 100, 100, 100))
    assert list(one.near) == ["yarn"]
    assert one.result(corrected=True) == expected


def test_a_win_is_one_against_all_and_a_loss_one_against_any():
    better = shifted(-2, -2.1, -1.9, -2)
    mixed = outcome(shifted(-1, -1.1, -0.9, -1), yarn=BASE, ntk=better)
    assert mixed.result(corrected=True) == "loses"
    assert outcome(shifted(-1, -1.1, -0.9, -1), yarn=BASE, ntk=shifted(-3, 1, -1, -1)).result(
        corrected=True
    ) == ("undecided")


def test_a_correction_widens_the_interval_around_its_middle():
    difference = outcome(shifted(1, 2, 1, 2), yarn=BASE).differences["yarn"]
    wide = widened(difference, 4)
    assert wide.low < difference.low < wide.nats < difference.high < wide.high
    assert wide.low + wide.high == pytest.approx(2 * wide.nats)
    assert widened(difference, 1).low == pytest.approx(difference.low)


def test_a_narrow_loss_among_many_comparisons_is_none_once_corrected():
    forms = {f"form-{number}": shifted(number, -number, number, -number) for number in range(4)}
    one = outcome(shifted(0.2, 0.5, 0.6, 0.9), **forms)
    assert one.result(corrected=False) == "loses"
    assert one.result(corrected=True) == "undecided"


def test_facts_are_compared_question_by_question():
    one = outcome(BASE, yarn=BASE)
    one.found.update({RETURNED: ["1111"] * 4 + ["1110"], "yarn": ["0000"] * 4 + ["0001"]})
    assert one.facts_result("yarn") == "wins"
    assert (one.found_against("yarn").only_ours, one.found_against("yarn").only_theirs) == (19, 1)


def test_an_interrupted_run_has_no_outcome():
    run = selected_runs()[0]
    nats = [[100.0, 100]] * 4
    measured = {
        f"{run.label} / search": {},
        f"{run.label} / nats {RETURNED}": nats,
        f"{run.label} / nats yarn": nats,
        f"{run.label} / found {RETURNED}": ["1"] * 4,
    }
    assert outcomes_of(measured) == []
    (found,) = outcomes_of({**measured, f"{run.label} / found yarn": ["0"] * 4})
    assert found.run == run


def test_tables_and_short_texts_are_left_out():
    assert is_prose_or_code("a word " * 3000)
    assert not is_prose_or_code("a word " * 10)
    assert not is_prose_or_code("0.25, 1, " * 3000)


def test_a_folder_without_pages_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="man1"):
        page_texts(tmp_path)
