import math
from dataclasses import replace

import numpy as np
import pytest
from quadratic import RecordingObjective, search_on, strategy_for

from ropewalk.errors import SettingError
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.named_spaces import make_space
from ropewalk.search.settings import PAPER_BUDGET
from ropewalk.search.strategies.evolution import EvolutionSettings
from ropewalk.search.trial import Trial


def tell(strategy, index, candidate, value):
    trial = Trial(
        index=index,
        candidate=candidate,
        value=value,
        failure=None if value is not None else "the value is nan",
        seconds=0.0,
        cost=1.0,
    )
    strategy.tell(trial)


def drain(strategy, value_of, count):
    asked = []
    for index in range(count):
        candidate = strategy.ask().candidate
        asked.append(candidate)
        tell(strategy, index, candidate, value_of(candidate))
    return asked


def test_the_paper_s_budget():
    assert PAPER_BUDGET == 1344
    settings = EvolutionSettings()
    assert settings.population_size == 64
    assert (settings.num_mutations, settings.num_crossovers) == (16, 16)
    assert settings.num_parents == 32
    assert settings.mutation_probability == 0.3


def test_the_first_population_opens_with_pi_ntk_and_yarn_without_start_tokens(space):
    strategy = strategy_for("evolution", space, seed=1)
    for name in ("pi", "ntk", "yarn"):
        candidate = strategy.ask().candidate
        assert candidate == space.snap(scheme_factors(name, space.geometry, space.target_length))
        assert candidate.num_start_tokens == 0


def test_longrope2_s_first_population_spreads_over_its_range(space):
    """Flat at the floor, as closed forms are there, a mutation could move the last pair only."""
    space = make_space("longrope2", space)
    strategy = strategy_for("evolution", space, seed=1)
    first = [candidate for candidate in drain(strategy, lambda _: 1.0, 64) if space.contains(candidate)]
    assert len(set(first)) == 64
    for knot in range(space.num_knots):
        levels = {int(space.levels(candidate)[knot]) for candidate in first}
        assert len(levels) >= 8
    assert max(levels) > 0.9 * space.highest_level


def test_the_first_population_is_drawn_before_anything_is_told(space):
    """Its 64 do not depend on values, the 65th does."""
    told, untold = (strategy_for("evolution", space, seed=1) for _ in range(2))
    first = drain(told, lambda candidate: candidate.rescale_factors[-1], 64)
    assert first == [untold.ask().candidate for _ in range(64)]


def test_a_mutation_stays_between_its_neighbours(space):
    """With every pair redrawn, pair i lies between pair i - 1 of the child and pair i + 1 of the parent."""
    strategy = strategy_for("evolution", space, seed=0, settings={"mutation_probability": 1.0})
    parent = space.snap(scheme_factors("yarn", space.geometry, space.target_length))
    before = space.levels(parent)
    lasts, start_tokens = set(), set()
    for _ in range(300):
        child = strategy._mutate(parent)
        levels = space.levels(child)
        assert (levels[:-1] <= before[1:]).all()
        assert (np.diff(levels) >= 0).all()
        lasts.add(int(levels[-1]))
        start_tokens.add(child.num_start_tokens)
    assert max(lasts) > before[-1], "the last pair may go beyond s"
    assert max(lasts) <= space.highest_level
    assert start_tokens == set(space.start_tokens)


def test_a_mutation_changes_three_pairs_in_ten(space):
    strategy = strategy_for("evolution", space, seed=0)
    parent = space.candidate(np.arange(12) * 70, 0, 1.0)
    children = [strategy._mutate(parent) for _ in range(1000)]
    changed = np.array([space.levels(child) != space.levels(parent) for child in children])
    assert changed.mean() == pytest.approx(0.3, abs=0.02)
    other_start = np.mean([child.num_start_tokens != 0 for child in children])
    assert other_start == pytest.approx(0.3 * 13 / 14, abs=0.05)


def test_a_crossover_takes_half_of_each_parent_and_raises_what_is_too_low(space):
    strategy = strategy_for("evolution", space, seed=0)
    low, high = (space.candidate(np.arange(12) * 3 + shift, n, 1.0) for shift, n in ((0, 0), (400, 256)))
    children = [strategy._cross([low, high]) for _ in range(2000)]
    for child in children:
        levels = space.levels(child)
        first_high = int(np.argmax(levels >= 400)) if (levels >= 400).any() else 12
        assert (levels[:first_high] == space.levels(low)[:first_high]).all()
        # From there each is the high parent's, or raised to the one before it.
        raised = np.maximum.accumulate(np.where(np.diff(levels, prepend=-1) > 0, levels, 0))
        assert (levels == raised).all()
        assert set(levels[first_high:]) <= set(space.levels(high))
    assert np.mean([child.num_start_tokens for child in children]) == pytest.approx(128, abs=10)
    assert np.mean([space.levels(child)[0] >= 400 for child in children]) == pytest.approx(0.5, abs=0.04)


def test_children_descend_from_the_best(space):
    """Where the sum of lambdas decides, parents and their children lie below the first population."""
    strategy = strategy_for("evolution", space, seed=3, settings={"num_parents": 4})
    asked = drain(strategy, lambda candidate: sum(candidate.rescale_factors), 64 + 32 * 4)
    sums = [sum(candidate.rescale_factors) for candidate in asked]
    assert np.mean(sums[64:96]) < np.mean(sums[:64])
    assert np.mean(sums[-32:]) < min(sums[:64])


def test_a_searched_attention_factor_is_a_coordinate(space):
    space = type(space)(
        geometry=space.geometry,
        target_length=2048,
        attention_factors=(1.0, 1.05, 1.1, 1.2, 1.3),
    )
    outcome = search_on("evolution", RecordingObjective(space), budget=600)
    assert outcome.best.candidate.attention_factor == 1.1
    assert {trial.candidate.attention_factor for trial in outcome.trials} == set(space.attention_factors)


def test_it_beats_its_first_population_by_far(space, objective):
    outcome = search_on("evolution", objective, budget=PAPER_BUDGET)
    first = min(math.log(trial.value) for trial in outcome.trials[:64])
    lowest = 1 + 100 * math.log(1.1) ** 2  # the attention factor stays 1 here
    assert math.log(outcome.best.value) - lowest < 0.1 * (first - lowest)
    random = search_on("random", objective, budget=PAPER_BUDGET)
    assert outcome.best.value < random.best.value


def test_it_goes_on_when_everything_fails(space):
    strategy = strategy_for("evolution", space, seed=0, settings={"population_size": 8})
    asked = drain(strategy, lambda candidate: None, 100)
    assert len(set(asked)) == 100


def test_a_space_with_few_points_ends_the_search(space):
    geometry = type(space.geometry)(
        head_dim=2, rotary_dim=2, rope_theta=10.0, original_length=100, num_layers=1
    )
    space = type(space)(geometry=geometry, target_length=101, start_tokens=(0,))
    strategy = strategy_for("evolution", space, seed=0)
    asked = []
    while (query := strategy.ask()) is not None:
        asked.append(query.candidate)
        tell(strategy, len(asked), query.candidate, 1.0)
    assert len(set(asked)) == len(asked) <= space.highest_level + 1 == 27
    assert len(asked) > 20


@pytest.mark.parametrize(
    "settings",
    [
        {"population_size": 0},
        {"num_parents": 1},
        {"num_mutations": -1},
        {"num_mutations": 0, "num_crossovers": 0},
        {"mutation_probability": 0.0},
        {"mutation_probability": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(space, settings):
    with pytest.raises(SettingError) as error:
        strategy_for("evolution", space, seed=0, settings=settings)
    assert "\n" not in str(error.value)


def test_children_descend_from_so_many_parents(space):
    """By crossover alone, each level of a child is one that some parent has; the next best has no part."""
    space = replace(space, monotone=False)
    settings = {"population_size": 8, "num_parents": 3, "num_mutations": 0, "num_crossovers": 60}
    strategy = strategy_for("evolution", space, seed=0, settings=settings | {"mutation_probability": 1.0})
    values = iter([5.0, 1.0, 4.0, 8.0, 2.0, 7.0, 3.0, 6.0])
    asked = drain(strategy, lambda _: next(values), 8)
    parents = np.array([space.levels(asked[index]) for index in (1, 4, 6)])
    next_best = space.levels(asked[2])
    children = np.array([space.levels(strategy.ask().candidate) for _ in range(60)])
    from_parent = children[:, None] == parents
    assert from_parent.any(axis=1).all()
    # Where a level is one parent's alone, children show who passed it on.
    alone = (parents[:, None] != parents[None]).sum(axis=1) == len(parents) - 1
    assert all((from_parent[:, index] & alone[index]).any() for index in range(3))
    assert ((next_best != parents).all(axis=0)).any(), "it would be seen"


def test_a_crossover_is_of_two_different_parents(space):
    """With twelve pairs hardly any child of two is a copy of one; of a parent with itself each would be."""
    space = replace(space, monotone=False)
    strategy = strategy_for("evolution", space, seed=0)
    parents = [space.candidate(np.arange(12) * 10 + shift, 0, 1.0) for shift in (0, 5)]
    children = [strategy._cross(parents) for _ in range(100)]
    assert not set(children) & set(parents)


def test_of_equal_values_the_earlier_is_the_parent(space):
    settings = {"population_size": 8, "num_parents": 2, "num_mutations": 0, "num_crossovers": 30}
    strategy = strategy_for("evolution", replace(space, monotone=False), seed=0, settings=settings)
    asked = drain(strategy, lambda _: 1.0, 8)
    parents = np.array([space.levels(candidate) for candidate in asked[:2]])
    children = np.array([space.levels(strategy.ask().candidate) for _ in range(30)])
    assert (children[:, None] == parents).any(axis=1).all()


def test_a_mutation_reaches_its_neighbours_levels_and_the_largest(space):
    space = replace(space, step=0.5)
    strategy = strategy_for("evolution", space, seed=0, settings={"mutation_probability": 1.0})
    parent = space.candidate(np.arange(12), 0, 1.0)
    children = np.array([space.levels(strategy._mutate(parent)) for _ in range(500)])
    assert set(children[:, 0]) == {0, 1}, "from the smallest to the next pair's"
    assert children[:, -1].max() == space.highest_level
    free = strategy_for("evolution", replace(space, monotone=False), settings={"mutation_probability": 1.0})
    children = np.array([space.levels(free._mutate(parent)) for _ in range(500)])
    assert (children.min(axis=0) == 0).all()
    assert (children.max(axis=0) == space.highest_level).all()
