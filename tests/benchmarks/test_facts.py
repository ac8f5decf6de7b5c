"""`benchmarks/facts.py`: what its page says, which targets are met, what the drawing shows."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import facts_page
import facts_targets
import frontier_figure
from evolution_counted import CountedEvolution, CountedSettings
from facts_measured import BASE, CLOSED, DEFAULT, EVOLUTION, FOUR, LENGTHS, RAMPS, SEEN, UNSEEN, Measured
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies.base import Task
from ropewalk.search.trial import Trial

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=256, num_layers=2)
NUM_DOCUMENTS = 40
ABOUT = {"versions": {"torch": "2"}, "python": "3", "processor": "CPU", "threads": 1, "model": "0" * 64,
         "questions": 80, "documents": NUM_DOCUMENTS}  # fmt: skip


def factors(group, number, same_as=None):
    values = {"rescale_factors": [[1.0, 1.0 + number]], "num_start_tokens": 0, "attention_factor": 1.0}
    return {"group": group, "as": same_as, "values": values}


def search(cost):
    return {"about": "chosen", "cost": cost, "cost_of_choice": 1.0, "seconds": 1.0, "largest_error": None,
            "num_candidates": 1344, "cost_of_candidates": cost, "cost_of_renewals": 0.0}  # fmt: skip


def measured(*, found=60, nats=2.0, cost=6.0, kept_value=10.02):
    """A closed form (60 of 80 found, 2.5 nats), a ramp (2.4 nats), and a default search of three seeds."""
    labels = {"yarn": CLOSED, "yarn:beta_fast=8,beta_slow=1": RAMPS,
              **{f"default, seed {seed}": DEFAULT for seed in range(3)}}  # fmt: skip
    of_label = {"yarn": (60, 2.5), "yarn:beta_fast=8,beta_slow=1": (59, 2.4)}
    values = {f"factors {BASE}": {"group": BASE, "as": BASE, "values": None}}
    for number, (label, group) in enumerate(labels.items()):
        right, each = of_label.get(label, (found + number - 3, nats))
        values[f"factors {label}"] = factors(group, number, label)
        values[f"nats {label}"] = [[100 * each + n % 3, 100] for n in range(NUM_DOCUMENTS)]
        for kind in (SEEN, UNSEEN, FOUR):
            for length in LENGTHS:
                answers = [[question < right, question % NUM_DOCUMENTS] for question in range(80)]
                values[f"found {label} / {kind} / {length}"] = answers
        if group == DEFAULT:
            values[f"search {label}"] = search(cost)
    for how, value in (("kept keys", kept_value), ("exact", 10.0)):
        label = f"evolution, {how}, 1344 candidates"
        values[f"factors {label}"] = factors(EVOLUTION, len(values), label)
        values[f"search {label}"] = search(4.0)
        values[f"value {label}"] = {"search": 9.0, "unseen": value}
    return Measured(values)


def results(seen):
    return [row[-1] for row in facts_targets.targets(seen)]


def test_a_search_that_is_better_in_both_meets_every_target():
    assert results(measured(found=72)) == ["met"] * 6


@pytest.mark.parametrize(
    ("changed", "row", "result"),
    [
        ({"found": 59}, 0, "undecided"),
        ({"found": 30}, 0, "missed"),
        ({"nats": 2.45}, 1, "missed"),
        ({"found": 60, "nats": 2.4}, 2, "missed"),
        ({"cost": 7.5}, 3, "missed"),
        ({"kept_value": 10.06}, 5, "missed"),
    ],
)
def test_each_target_can_be_missed(changed, row, result):
    assert results(measured(**changed))[row] == result


def test_what_was_not_measured_is_neither_met_nor_missed():
    assert results(Measured({})) == ["not measured"] * 6


def test_the_page_has_a_row_for_each_length_and_each_set_of_factors():
    lines = facts_page.page(measured(found=72), "tiny", ABOUT, "python benchmarks/facts.py")
    rows = [line for line in lines if line.startswith(f"| {SEEN} | ")]
    assert [int(row.split("|")[2]) for row in rows] == list(LENGTHS)
    assert all("72 (71-73)" in row or "better" in row for row in rows)
    table = lines[lines.index("## Perplexity and answers at 2048 tokens") :]
    assert {"| default, seed 0 |", "| yarn |"} <= {line[: line.find("|", 2) + 1] for line in table}


def test_equal_factors_are_measured_once_and_shown_under_both_labels():
    values = dict(measured().values)
    values["factors again"] = factors(DEFAULT, 0, "yarn")
    seen = Measured(values)
    assert seen.first_with(values["factors again"]["values"]) == "yarn"
    assert seen.perplexity("again") == seen.perplexity("yarn")
    assert seen.right("again", SEEN, 256) == 60


def test_the_drawing_shows_near_points_and_lists_those_far_to_the_right(monkeypatch):
    figures = []
    original = frontier_figure.Figure.savefig

    def keep(figure, *given, **named):
        figures.append(figure)
        return original(figure, *given, **named)

    monkeypatch.setattr(frontier_figure.Figure, "savefig", keep)
    near = facts_page.points_of(measured(nats=2.35))
    far = frontier_figure.Point(label="pi", group=CLOSED, perplexity=40.0, share=0.02)
    assert frontier_figure.draw_frontier([*near, far], title="tiny").startswith(b"\x89PNG")
    (axes,) = figures[0].axes
    assert axes.get_xlim()[1] < 40.0
    assert "pi" in axes.get_xlabel()
    assert {"yarn", "ramp 8 to 1"} <= {text.get_text() for text in axes.texts}


def test_the_evolution_ends_after_its_candidates():
    space = SearchSpace(geometry=GEOMETRY, target_length=2048)
    task = Task(space=space, seed=0, budget=1000.0)
    strategy = CountedEvolution(task, CountedSettings(num_candidates=70))
    asked = []
    while (query := strategy.ask()) is not None:
        trial = Trial(index=len(asked), candidate=query.candidate, kind="trial", value=1.0 + len(asked),
                      failure=None, seconds=0.0, cost=1.0)  # fmt: skip
        asked.append(query.candidate)
        strategy.tell(trial)
    assert len(set(asked)) == 70
