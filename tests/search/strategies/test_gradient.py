"""What counts of a descent: with one document a step's value is whole, with several it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quadratic import RecordingObjective, make_space, search_on, strategy_for

from ropewalk.search.strategies.gradient import Descent, GradientSettings
from ropewalk.search.trial import Trial
from ropewalk.testing.strategy_driver import MemoryJournal

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
    outcome = search_on(name, RecordingObjective(space), budget=60, settings=settings)
    assert not values_of(outcome, complete=False)
    assert outcome.best.value == min(values_of(outcome, complete=True))


def test_a_step_in_the_middle_can_be_the_best_and_start_tokens_are_tried_on_it(space):
    outcome = search_on("gradient", RecordingObjective(space), budget=60, settings=LOST)
    steps = [trial for trial in outcome.trials if trial.gradient is not None]
    lowest = min(steps, key=lambda trial: trial.rank)
    last, *with_start_tokens = outcome.trials[steps[-1].index + 1 :]
    assert lowest.value < min(steps[-1].value, last.value), "it walked away from it"
    assert len(with_start_tokens) >= 2
    assert {t.candidate.rescale_factors for t in with_start_tokens} == {lowest.candidate.rescale_factors}
    assert outcome.best_without_start_tokens == lowest


def test_resumed_within_a_descent_on_one_document_it_goes_the_same_way(space):
    journal = MemoryJournal()
    whole = search_on("gradient", RecordingObjective(space), journal, budget=60)
    cut = next(trial.index for trial in whole.trials if trial.gradient is not None) + 3
    begun = MemoryJournal(whole.trials[:cut], tuple(journal.generator_states[:cut]))
    resumed = search_on("gradient", RecordingObjective(space), begun, budget=60)
    assert [trial.candidate for trial in resumed.trials] == [trial.candidate for trial in whole.trials]
    assert begun.generator_states == journal.generator_states


def test_of_several_documents_a_step_reads_one_and_is_never_the_best(space):
    outcome = search_on("gradient", RecordingObjective(space, num_documents=3, spread=2.0), budget=60)
    steps = [trial for trial in outcome.trials if trial.gradient is not None]
    assert {trial.documents for trial in steps} == {(0,), (1,), (2,)}
    assert min(values_of(outcome, complete=False)) < outcome.best.value, "a part may look better"
    assert outcome.best.gradient is None


# ---------------------------------------------------------------- the arithmetic of its steps

NUM_STEPS = 10
START = np.zeros(3)
RATES = np.array([1.0, 0.5, 0.25])
SCHEMES = ("ntk", "yarn", "pi")
LEFT = [1.0] * 6 + [0.8, 0.6, 0.4, 0.2]  # of the step's size, where the last half of ten steps gets shorter


def descend(gradients, **settings):
    """The coordinates after each step."""
    descent = Descent(START, RATES, NUM_STEPS, GradientSettings(learning_rate=0.1, **settings))
    iterates = []
    for gradient in gradients:
        descent.arrive(descent.step(gradient))
        iterates.append(descent.at)
    return descent, np.array(iterates)


def test_steps_along_a_constant_slope_get_shorter_in_the_last_half():
    """Adam's mean and spread are the slope itself there, from the first step on."""
    slope = np.array([3.0, -0.01, 200.0])
    descent, iterates = descend([slope] * NUM_STEPS)
    assert descent.is_done
    moved = np.diff(iterates, axis=0, prepend=START[None])
    expected = -0.1 * np.outer(LEFT, RATES * np.sign(slope))
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


@pytest.mark.parametrize(("share", "last"), [(0.0, 1.0), (0.2, 0.5), (1.0, 0.1)])
def test_the_share_of_the_steps_that_get_shorter(share, last):
    _, iterates = descend([np.ones(3)] * NUM_STEPS, decay_share=share)
    moved = np.diff(iterates, axis=0, prepend=START[None])[:, 0]
    assert moved[0] == pytest.approx(-0.1)
    assert moved[-1] == pytest.approx(-0.1 * last)


def test_the_steps_are_those_of_torch_s_adam():
    gradients = np.random.default_rng(0).normal(size=(NUM_STEPS, 3)) * [1.0, 100.0, 0.01]
    _, iterates = descend(gradients, decay_share=0.0, beta1=0.7, beta2=0.9)
    at = [torch.zeros(1, dtype=torch.float64) for _ in RATES]
    groups = [{"params": [one], "lr": 0.1 * rate} for one, rate in zip(at, RATES, strict=True)]
    adam = torch.optim.Adam(groups, betas=(0.7, 0.9), eps=1e-12)
    for gradient, ours in zip(gradients, iterates, strict=True):
        for one, slope in zip(at, gradient, strict=True):
            one.grad = torch.tensor([slope], dtype=torch.float64)
        adam.step()
        np.testing.assert_allclose(ours, torch.cat(at).numpy(), rtol=1e-9)


@pytest.mark.parametrize(("share", "count"), [(0.3, 3), (0.0, 1), (1.0, 10)])
def test_the_mean_is_that_of_the_last_iterates(share, count):
    gradients = np.random.default_rng(1).normal(size=(NUM_STEPS, 3))
    descent, iterates = descend(gradients, average_share=share)
    np.testing.assert_allclose(descent.average(), iterates[-count:].mean(axis=0))


def fine_space(**choices):
    """Hardly a grid, and no order, so that a step is seen as it was made."""
    return replace(make_space(), step=1e-6, monotone=False, start_tokens=(0,), **choices)


def tell(strategy, query, value=2.0, gradient=None):
    trial = Trial(
        index=0, candidate=query.candidate, value=value, failure=None, seconds=0.0, cost=1.0,
        documents=query.documents, gradient=None if gradient is None else tuple(gradient),
    )  # fmt: skip
    strategy.tell(trial)


def step_of(strategy, gradient):
    """Ask for a step and tell its gradient; the coordinates that it was asked at."""
    query = strategy.ask()
    assert query.gradient
    tell(strategy, query, gradient=gradient)
    return strategy.space.coordinates(query.candidate)


def begun_descent(space, **settings):
    """A descent from NTK, whose first query is for a step."""
    strategy = strategy_for(
        "gradient", space, budget=60, num_documents=4, settings={"schemes": ("ntk",), **settings}
    )
    start = strategy.ask()
    assert not start.gradient
    tell(strategy, start)
    return strategy


def test_pairs_that_turn_often_take_steps_shorter_by_the_root():
    space = fine_space(attention_factors=tuple(1 + k * 1e-6 for k in range(200_000)))
    strategy = begun_descent(space)
    uphill = -np.ones(space.num_knots + 1)
    first, second = (step_of(strategy, uphill) for _ in range(2))
    turns = space.geometry.turns()
    expected = [0.08 * min(1.0, (2 / turns_of_pair) ** 0.5) for turns_of_pair in turns]
    assert min(expected) < 0.03 < 0.08 == max(expected), "some pairs turn often, and some do not"
    assert (second - first)[:-1] == pytest.approx(expected, abs=1e-5)
    assert (second - first)[-1] == pytest.approx(0.08 * 0.3, abs=1e-5), "and ln attention by its own rate"


def test_a_descent_that_runs_into_a_bound_turns_back_at_once():
    """It stands on the bound meanwhile, however long the slope leads beyond."""
    space = fine_space()
    strategy = begun_descent(space, beta1=0.0, decay_share=0.0)
    for _ in range(40):
        step_of(strategy, np.ones(space.num_knots + 1))
    at_bound, back = (step_of(strategy, -np.ones(space.num_knots + 1)) for _ in range(2))
    assert at_bound[:-1] == pytest.approx(0.0, abs=1e-9), "every lambda is 1"
    assert (back[:-1] > 0.01).all()


def test_a_descent_leaves_room_for_its_ends_and_for_start_tokens():
    """Of 60 values one is a start's, one or two are the ends', 6 for n-hat; a step on one document of four
    costs 3/4."""
    for start_tokens, average_share, num_steps in (
        ((0,), 0.0, 58 * 4 // 3), ((0,), 0.3, 57 * 4 // 3), ((0, 1, 4), 0.0, 52 * 4 // 3)
    ):  # fmt: skip
        space = replace(fine_space(), start_tokens=start_tokens)
        strategy = begun_descent(space, average_share=average_share)
        count = 0
        while strategy.ask().gradient:
            step_of(strategy, np.ones(strategy.space.num_knots + 1))
            count += 1
        assert count == num_steps


def test_a_descent_begins_at_the_best_start():
    space = fine_space()
    strategy = strategy_for("gradient", space, budget=60, num_documents=4, settings={"schemes": SCHEMES})
    starts = []
    for value in (3.0, 2.0, 4.0):
        query = strategy.ask()
        starts.append(query.candidate)
        tell(strategy, query, value)
    assert strategy.ask().candidate == starts[1]


def test_starts_are_compared_on_some_documents_and_the_best_is_evaluated_on_all_at_the_end():
    space = fine_space()
    settings = {"schemes": SCHEMES, "start_documents": 2}
    strategy = strategy_for("gradient", space, budget=60, num_documents=4, settings=settings)
    starts = []
    for value in (3.0, 2.0, 4.0):
        query = strategy.ask()
        assert query.documents == (0, 1)
        starts.append(query.candidate)
        tell(strategy, query, value)
    assert strategy.ask().candidate == starts[1]
    while (query := strategy.ask()).gradient:
        tell(strategy, query, gradient=np.ones(space.num_knots + 1))
    ends = [query]
    tell(strategy, query, value=5.0)
    ends.append(strategy.ask())
    assert [end.documents for end in ends] == [None, None]
    assert ends[1].candidate == starts[1] != ends[0].candidate


def test_every_step_has_facts_of_its_own_and_values_have_the_same():
    strategy = begun_descent(fine_space())
    draws = []
    while (query := strategy.ask()).gradient:
        draws.append(query.draw)
        tell(strategy, query, gradient=np.ones(strategy.space.num_knots + 1))
    assert draws == list(range(1, len(draws) + 1))
    assert query.draw == 0, "the value of the end of the descent"


def test_every_round_reads_each_document_once_in_an_order_of_its_own():
    orders = []
    for seed in (0, 1):
        strategy = strategy_for("gradient", fine_space(), seed=seed, budget=60, num_documents=6)
        documents = []
        while (query := strategy.ask()).gradient or not documents:
            if query.gradient:
                documents += query.documents
            tell(strategy, query, gradient=np.ones(13) if query.gradient else None)
        rounds = [tuple(documents[start : start + 6]) for start in range(0, len(documents) - 5, 6)]
        assert all(sorted(order) == [0, 1, 2, 3, 4, 5] for order in rounds)
        orders.append(rounds)
    assert len(set(orders[0])) > 10, "hardly any twice"
    assert orders[0] != orders[1]
