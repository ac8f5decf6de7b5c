"""Searches that judge candidates from kept keys: repeated, killed and resumed, and decided in full."""

import json

import pytest
from measured_by import measured_by
from quadratic import journal_values, write_journal
from tiny import make_texts

from ropewalk.errors import ModelError, RunFolderError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.search.finalists import TRAINED
from ropewalk.search.journal import Journal
from ropewalk.search.objective import Objective
from ropewalk.search.plan import plan_search
from ropewalk.search.search import search_factors
from ropewalk.search.settings import SearchSettings

TARGET = 256  # 4 times the tiny model's window
# Steps that are long enough to leave the trust region.
SETTINGS = SearchSettings(budget=10, seed=3, strategy_settings={"learning_rate": 0.5})


@pytest.fixture
def documents(loaded, tmp_path):
    return make_texts(tmp_path, loaded.tokenizer, length=TARGET, names="abcd")


def search(loaded, documents, journal=None, settings=SETTINGS, **more):
    return search_factors(
        loaded, documents.part(0, 2), target_length=TARGET, settings=settings, journal=journal,
        validation_documents=documents.part(2, 4), **more,
    )  # fmt: skip


def renewals(result):
    return [trial.renewal for trial in result.outcome.trials]


def test_a_killed_search_is_resumed_with_the_same_renewals_and_factors(loaded, documents, tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = search(loaded, documents, Journal(path))
    made = [renewal for renewal in renewals(whole) if renewal is not None]
    assert made[0].error is None, "first keys"
    assert any(renewal.error is not None for renewal in made), "renewed"
    assert search(loaded, documents).factors.to_json() == whole.factors.to_json(), "without a journal"

    lines = path.read_bytes().splitlines(keepends=True)
    last = max(index for index, renewal in enumerate(renewals(whole)) if renewal is not None)
    for num_trials in (1, last, last + 1, len(lines) - 3):
        path.write_bytes(b"".join(lines[: 1 + num_trials]))
        again = search(loaded, documents, Journal(path))
        assert again.factors.to_json() == whole.factors.to_json()
        assert renewals(again) == renewals(whole)
        assert len(path.read_bytes().splitlines()) == len(lines)


def test_kept_trials_cost_less_and_renewals_are_within_the_budget(loaded, documents):
    outcome = search(loaded, documents).outcome
    complete = [trial for trial in outcome.trials if trial.kind == "trial" and trial.is_complete]
    assert all(trial.cost < 0.5 for trial in complete)
    assert len(outcome.trials) > SETTINGS.budget
    assert outcome.cost == pytest.approx(sum(trial.total_cost for trial in outcome.trials))
    assert outcome.cost <= SETTINGS.budget + 1e-9


@pytest.mark.parametrize("budget", [5, 6, 7, 12])
def test_no_search_costs_more_than_its_budget(loaded, documents, budget):
    settings = SearchSettings(budget=budget, seed=budget, strategy_settings={"learning_rate": 0.5})
    assert search(loaded, documents, settings=settings).outcome.cost <= budget + 1e-9


def test_closed_forms_are_judged_from_keys_that_the_last_check_has_kept(loaded, documents):
    choice = search(loaded, documents).outcome.choice
    assert len(choice.screened) > 2
    assert not any(one.trial.renewal for one in choice.screened)


def test_what_decides_is_read_in_full(loaded, documents):
    result = search(loaded, documents)
    choice = result.outcome.choice
    exact = plan_search(loaded.description, TARGET, SETTINGS).objective(loaded, documents.part(2, 4))
    assert exact.value_of(result.factors) == pytest.approx(result.deciding_value, rel=1e-6)
    assert exact.value_of(result.searched_factors) == pytest.approx(choice.searched.value, rel=1e-6)
    for one in choice.closed_forms:
        assert exact.value_of(exact.factors(one.trial.candidate)) == pytest.approx(one.trial.value, rel=1e-6)
    assert len(choice.closed_forms) == 2 < len(choice.screened)
    ranked = sorted(choice.screened, key=lambda one: one.trial.rank)
    assert [one.label for one in choice.closed_forms] == [one.label for one in ranked[:2]]


def test_the_factors_of_a_training_are_read_in_full_wherever_they_rank(loaded, documents, monkeypatch):
    def nats_of(objective, candidate):  # the farther from lambda 1, the better
        return 1000 - sum(candidate.rescale_factors)

    monkeypatch.setattr(Objective, "measure", measured_by(nats_of))
    own = RescaleFactors.single(
        geometry=loaded.geometry, target_length=128, rescale_factors=[1.0, 1.3, 1.7, 2.0]
    )
    settings = SearchSettings(budget=9, strategy="random", exact=False, objective="perplexity")
    choice = search(loaded, documents, settings=settings, base_factors=own).outcome.choice
    ranked = sorted(choice.screened, key=lambda one: one.trial.rank)
    assert ranked[-1].label == TRAINED
    assert [one.label for one in choice.closed_forms] == [*(one.label for one in ranked[:2]), TRAINED]


def test_without_validation_documents_the_result_is_read_in_full_on_those_of_the_search(loaded, documents):
    searched = documents.part(0, 2)
    result = search_factors(loaded, searched, target_length=TARGET, settings=SETTINGS)
    exact = plan_search(loaded.description, TARGET, SETTINGS).objective(loaded, searched)
    assert exact.value_of(result.factors) == pytest.approx(result.deciding_value, rel=1e-6)


@pytest.mark.parametrize(
    "damage", [{"cost": -1.0}, {"error": "large"}, {"documents": []}, {"documents": [-1]}, {"more": 1}]
)
def test_a_damaged_renewal_is_refused(loaded, documents, tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    search(loaded, documents, Journal(path))
    values = journal_values(path)
    line = next(value for value in values[1:] if "renewal" in value)
    line["renewal"] |= damage
    write_journal(path, values)
    with pytest.raises(RunFolderError, match="damaged"):
        search(loaded, documents, Journal(path))


def test_a_model_whose_keys_can_not_be_kept_is_searched_exactly_and_the_result_says_so(
    loaded, documents, monkeypatch, tmp_path
):
    def refuse(model):
        raise ModelError("no keys")

    monkeypatch.setattr("ropewalk.models.model.learn_key_rotation", refuse)
    settings = SearchSettings(budget=12, seed=3)
    path = tmp_path / "journal.jsonl"
    result = search(loaded, documents, Journal(path), settings)
    assert result.exact_because == "no keys"
    assert result.identity["exact"] is True
    assert json.loads(path.read_bytes().splitlines()[0])["identity"]["exact"] is True
    assert not any(renewals(result))
    exact = search(loaded, documents, settings=settings.model_copy(update={"exact": True}))
    assert exact.factors.to_json() == result.factors.to_json()
