"""What counts of a descent: with one document a step's value is whole, with several it is not."""

import pytest
from bowl import Bowl, search_on

from ropewalk.testing.driving import Remembered

LOST = {
    "learning_rate": 1.0,
    "decay_share": 0.0,
    "average_share": 0.0,
    "beta1": 0.0,
}  # steps that are too wide


def values_of(outcome, *, complete):
    return [t.value for t in outcome.trials if t.value is not None and t.is_complete == complete]


@pytest.mark.parametrize("name", ["gradient", "hybrid"])
@pytest.mark.parametrize("settings", [{}, LOST])
def test_of_one_document_the_best_value_seen_is_kept(space, name, settings):
    outcome = search_on(name, Bowl(space), budget=60, settings=settings)
    assert not values_of(outcome, complete=False)
    assert outcome.best.value == min(values_of(outcome, complete=True))


def test_a_step_in_the_middle_can_be_the_best_and_start_tokens_are_tried_on_it(space):
    outcome = search_on("gradient", Bowl(space), budget=60, settings=LOST)
    steps = [trial for trial in outcome.trials if trial.gradient is not None]
    lowest = min(steps, key=lambda trial: trial.rank)
    last, *with_start_tokens = outcome.trials[steps[-1].index + 1 :]
    assert lowest.value < min(steps[-1].value, last.value), "it walked away from it"
    assert len(with_start_tokens) >= 2
    assert {t.candidate.rescale_factors for t in with_start_tokens} == {lowest.candidate.rescale_factors}
    assert outcome.best_without_start_tokens == lowest


def test_resumed_within_a_descent_on_one_document_it_goes_the_same_way(space):
    journal = Remembered()
    whole = search_on("gradient", Bowl(space), journal, budget=60)
    cut = next(trial.index for trial in whole.trials if trial.gradient is not None) + 3
    begun = Remembered(whole.trials[:cut], tuple(journal.generator_states[:cut]))
    resumed = search_on("gradient", Bowl(space), begun, budget=60)
    assert [trial.candidate for trial in resumed.trials] == [trial.candidate for trial in whole.trials]
    assert begun.generator_states == journal.generator_states


def test_of_several_documents_a_step_reads_one_and_is_never_the_best(space):
    outcome = search_on("gradient", Bowl(space, num_documents=3, spread=2.0), budget=60)
    steps = [trial for trial in outcome.trials if trial.gradient is not None]
    assert {trial.documents for trial in steps} == {(0,), (1,), (2,)}
    assert min(values_of(outcome, complete=False)) < outcome.best.value, "a part may look better"
    assert outcome.best.gradient is None
